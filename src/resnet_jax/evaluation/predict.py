"""What a trained network sees in image files."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.encoded import Photograph, read_file
from resnet_jax.data.folders import NO_IMAGES, folders, image_files, reasons
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.sources import Split
from resnet_jax.errors import InputError, complain
from resnet_jax.evaluation.evaluate import Resident
from resnet_jax.evaluation.protocols import Protocol
from resnet_jax.evaluation.scoring import score_images
from resnet_jax.evaluation.trained import Trained
from resnet_jax.files import expanded

# Images at a time.
_BATCH = 64


def predict(trained: Trained, images: np.ndarray) -> np.ndarray:
    """Class probabilities: uint8 (batch, height, width, channels) -> float32 (batch, classes)."""
    labels = np.zeros(len(images), np.int32)
    found = np.zeros((len(images), len(trained.card.class_names)), np.float32)
    for scored in score_images([trained], Resident(Split(images, labels)), Protocol("original"), _BATCH):
        assert scored.scores is not None  # nothing is decoded
        found[scored.index] = np.exp(scored.scores)
    return found


def predict_files(
    trained: Trained, paths: Sequence[str | os.PathLike[str]], top: int = 5, say: Callable[[str], None] = complain
) -> list[dict[str, Any]]:
    """The most probable classes of each file: {"file", "classes": [{"name", "probability"}, …]} in falling order.

    The network sees of each image what the protocol "center" of `evaluate` shows it.

    Args:
      trained: the network.
      paths: files; folders, for the images anywhere below them, see `folders.image_files`; or patterns such as
        `photos/*.jpg`, where `**` is any number of folders. Any format that Pillow reads. Photographs are turned as
        their EXIF orientation says.
      top: classes of each file.
      say: is given a line about what was passed over in each folder, and one about each file of a folder or pattern
        that is no image, which is left out.

    Raises:
      InputError: a path that is absent, a folder or pattern without images, a file that was given by its own name and
        is no image, or no image at all among the others.
    """
    files = [file for path in paths for file in _expand(expanded(path, "an image"), say)]
    results: dict[int, dict[str, Any]] = {}
    for scored in score_images([trained], _Files(files), Protocol("center"), _BATCH):
        if scored.scores is None:
            problem = f"{scored.name} cannot be read as an image: {scored.damage}"
            if files[scored.index].named:
                raise InputError(problem)
            say(f"{problem}; it is left out")
            continue
        order = np.argsort(-scored.scores, kind="stable")[:top].tolist()
        results[scored.index] = {
            "file": scored.name,
            "classes": [
                {"name": trained.card.class_names[i], "probability": float(np.exp(scored.scores[i]))} for i in order
            ],
        }
    if not results:
        raise InputError(f"none of the {len(files)} files in {', '.join(map(str, paths))} can be read as an image")
    return [results[index] for index in sorted(results)]


@dataclass(frozen=True)
class _File:
    """A file, and whether it was given by its own name."""

    path: Path
    named: bool


def _expand(path: Path, say: Callable[[str], None]) -> list[_File]:
    if path.is_dir():
        images, passed = image_files(path)
        if not images:
            raise InputError(f"the folder {path} {NO_IMAGES}{f'; passed over: {reasons(passed)}' if passed else ''}")
        if passed:
            say(f"{path}: passed over: {reasons(passed)}")
        return [_File(path / image, named=False) for image in images]
    if path.exists():
        return [_File(path, named=True)]
    if not glob.has_magic(str(path)):
        raise InputError(f"there is no image file {path}")
    found = []
    for each in sorted(set(_matches(path))):
        if each.is_file():
            found.append(_File(each, named=False))
        elif not each.is_dir():
            say(f"{each} {'is no regular file' if each.exists() else 'links to nothing'}; it is left out")
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
    """Image files without labels."""

    files: Sequence[_File]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Photograph:
        path = self.files[index].path
        return Photograph(UprightFile(read_file(path)), 0, str(path))
