"""What a classifier sees in images: arrays, files, folders and patterns."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from resnet_jax.data.encoded import EncodedImage, read_file
from resnet_jax.data.folders import folders, image_files, reasons, without_images
from resnet_jax.data.image_files import UprightFile
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.protocols import Protocol
from resnet_jax.evaluation.scoring import score_images
from resnet_jax.files import expanded

# Images at a time.
_BATCH = 64


class Prediction(NamedTuple):
    """The most probable classes of an image.

    Attributes:
      file: its path, or of an array its index.
      classes: (name, probability) of each class, the most probable one first.

    Example:
      >>> Prediction("pets/1.jpg", [("tabby", 0.6213), ("tiger cat", 0.2)])
      Prediction(pets/1.jpg: tabby 62.1%, tiger cat 20.0%)
    """

    file: str
    classes: list[tuple[str, float]]

    @property
    def probabilities(self) -> dict[str, float]:
        """Of each class in `classes`, by its name."""
        return dict(self.classes)

    def __repr__(self) -> str:
        return f"Prediction({self.file}: {', '.join(f'{name} {share:.1%}' for name, share in self.classes)})"


def predict(
    classifier: Classifier,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray | jax.Array,
    top: int = 5,
    log: Callable[[str], None] = warn,
) -> list[Prediction]:
    """The most probable classes of each image.

    The network sees of each image what the protocol "center" of `evaluate` shows it. Arrays that are as large as its
    own images are shown as they are; all probabilities of such are `jax.nn.softmax(classifier(images))`.

    Args:
      classifier: the network.
      images: uint8 (batch, height, width, channels); or one path or several: files; folders, for the images anywhere
        below them, see `folders.image_files`; or patterns such as `photos/*.jpg`, where `**` is any number of folders.
        Any format that Pillow reads. Files are turned as their EXIF orientation says.
      top: classes of each image.
      log: is given a line about what was passed over in each folder, and one about each file of a folder or pattern
        that is no image, which is left out.

    Raises:
      InputError: a path that is absent, a folder or pattern without images, a file that was given by its own name and
        is no image, or no image at all among the others; or an array of another shape or dtype.
    """
    if top < 1:
        raise InputError(f"top is {top}, but it must be at least 1 class of each image")
    if isinstance(images, np.ndarray | jax.Array):
        source = _arrays(classifier, np.asarray(images))
        protocol = Protocol("original" if images.shape[1:] == classifier.image_shape else "center")
    else:
        paths = [images] if isinstance(images, str | os.PathLike) else images
        if not isinstance(paths, Sequence) or not all(isinstance(path, str | os.PathLike) for path in paths):
            raise InputError("the images are neither paths nor one array, uint8 (batch, height, width, channels)")
        source = _Files([file for path in paths for file in _expand(expanded(path, "an image"), log)])
        protocol = Protocol("center")
    found: dict[int, Prediction] = {}
    for scored in score_images([classifier], source, protocol, _BATCH):
        if scored.scores is None:
            problem = f"{scored.name} cannot be read as an image: {scored.damage}"
            if isinstance(source, _Files) and source.files[scored.index][1]:
                raise InputError(problem)
            log(f"{problem}; it is left out")
            continue
        order = np.argsort(-scored.scores, kind="stable")[:top].tolist()
        classes = [(classifier.class_names[i], float(np.exp(scored.scores[i]))) for i in order]
        found[scored.index] = Prediction(scored.name, classes)
    if not found and len(source):
        where = images if isinstance(images, str | os.PathLike) else ", ".join(map(str, images))
        raise InputError(f"none of the {len(source)} files in {where} can be read as an image")
    return [found[index] for index in sorted(found)]


def _arrays(classifier: Classifier, images: np.ndarray) -> list[EncodedImage]:
    own = classifier.image_shape
    if images.dtype != np.uint8 or images.ndim != 4 or not (images.shape[3] == 3 or images.shape[1:] == own):
        raise InputError(
            f"the images are {images.dtype} {images.shape}, but they must be uint8 (batch, height, width, 3), or as "
            f"large as the network's own, (batch, {', '.join(map(str, own))})"
        )
    return [EncodedImage(pixels, 0, str(i)) for i, pixels in enumerate(images)]


def _expand(path: Path, log: Callable[[str], None]) -> list[tuple[Path, bool]]:
    """The files that a path stands for, and whether it is the own name of one."""
    if path.is_dir():
        images, passed = image_files(path)
        if not images:
            raise without_images(path, passed)
        if passed:
            log(f"{path}: passed over: {reasons(passed)}")
        return [(path / image, False) for image in images]
    if path.exists():
        return [(path, True)]
    if not glob.has_magic(str(path)):
        raise InputError(f"there is no image file or folder {path}")
    found = []
    for each in sorted(set(_matches(path))):
        if each.is_file():
            found.append((each, False))
        elif not each.is_dir():
            log(f"{each} {'is no regular file' if each.exists() else 'links to nothing'}; it is left out")
    if not found:
        raise InputError(f"no file matches {path}")
    return found


def _matches(pattern: Path) -> Iterator[Path]:
    """What matches a pattern. `**` is expanded here, since `glob` goes round in circles of links."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    at = parts.index("**")
    rest = Path(*parts[at + 1 :]) if parts[at + 1 :] else Path("*")
    for start in glob.glob(str(Path(*parts[:at]))):
        if Path(start).is_dir():
            for folder in folders(start):
                yield from _matches(Path(glob.escape(folder)) / rest)


@dataclass(frozen=True)
class _Files:
    """Image files without labels, as `_expand` finds them."""

    files: Sequence[tuple[Path, bool]]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> EncodedImage:
        path, _ = self.files[index]
        return EncodedImage(UprightFile(read_file(path)), 0, str(path))
