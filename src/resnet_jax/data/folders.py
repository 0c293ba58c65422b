"""Folders of images: which files are images, for training and for `predict`; and a folder of classes as a data set."""

import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.encoded import EncodedImage, ImageDataset, read_file
from resnet_jax.data.image_files import HEIF_SUFFIXES, UprightFile, suffixes
from resnet_jax.errors import InputError, short_repr

# Why a folder is passed over.
_AGAIN = "entered already"
_CLOSED = "without permission to read it"


def image_files(folder: str | Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The image files in a folder and in the folders below it, by paths below it and sorted by the parts of these; and
    (reason, path) of each file or folder that was passed over. An InputError where the folder cannot be read.

    A name with a suffix of an image is one, whatever its case, and without one it is none. What is hidden, a name that
    begins with a dot, is not entered. Links are followed. No folder is entered twice, so that links in a circle end.
    """
    images, passed, _ = _walk(str(folder))
    return sorted(images, key=lambda path: path.split(os.sep)), passed


def folders(folder: str | Path) -> list[str]:
    """The folder and all that are below it, as `image_files` enters them."""
    return [os.path.join(folder, below) if below else str(folder) for below in _walk(str(folder))[2]]


def _walk(folder: str) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """The images, what is passed over, and the folders that are entered, the first of them ""."""
    # A link to a folder that holds this one would bring in all that lies beside it. Names alone can lie: `link/..` need
    # not be where the link is. Path.exists would raise where a folder above must not be searched.
    above = {path for made in (os.path.abspath, os.path.realpath) for path in Path(made(folder)).parents}
    seen = {_identity(path) for path in above if os.path.exists(path)}
    images, passed, entered = [], [], []
    # Links wait for the folders, of which they are then found to lead to one that was entered.
    waiting, links = [""], []
    while waiting or links:
        below = waiting.pop() if waiting else links.pop(0)
        path = os.path.join(folder, below) if below else folder
        try:
            identity = _identity(path)
            if identity in seen:
                passed.append((_AGAIN, below))
                continue
            entries = listed(path)
        except (OSError, InputError):
            if not below:
                raise
            passed.append((_CLOSED, below))
            continue
        seen.add(identity)
        entered.append(below)
        inside = []
        for entry in entries:
            name = os.path.join(below, entry.name)
            if entry.name.startswith("."):
                passed.append(("hidden", name))
            elif is_folder(entry):
                (links if entry.is_symlink() else inside).append(name)
            elif problem := _problem(os.path.join(folder, name)):
                passed.append((problem, name))
            else:
                images.append(name)
        waiting += reversed(inside)
    return images, passed, entered


def _identity(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name; an InputError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _problem(path: str) -> str:
    """Why a file is passed over; "" where it is not. To open a pipe would wait for another process, perhaps forever."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in suffixes():
        hint = " (pip install pillow-heif reads them)" if suffix in HEIF_SUFFIXES else ""
        return f"{suffix}{hint}" if suffix else "without a suffix"
    if not os.path.isfile(path):
        return "no regular file" if os.path.exists(path) else "linked to nothing"
    return "" if os.access(path, os.R_OK) else _CLOSED


def reasons(passed: Sequence[tuple[str, str]]) -> str:
    """What was passed over, the most frequent reason first: "2 .heic, such as cat/1.heic, 1 hidden: .DS_Store"."""
    first = dict(reversed(passed))
    counts = Counter(reason for reason, _ in passed).most_common()
    return ", ".join(f"{count} {why}{', such as' if count > 1 else ':'} {first[why]}" for why, count in counts)


def without_images(
    folder: str | Path, passed: Sequence[tuple[str, str]], instead: str = ", or give another folder"
) -> InputError:
    """The error of a folder that holds nothing but what was passed over."""
    why = f"; passed over: {reasons(passed)}" if passed else ""
    return InputError(
        f"the folder {folder} holds no images (.jpg, .png and whatever else Pillow reads){why}: put some there{instead}"
    )


@dataclass(frozen=True)
class FolderImages:
    """Image files under the folder `root`.

    Attributes:
      files: their paths below it, as bytes: a million of them are copied into every worker.
      labels: their classes, int32.
      upright: whether they are turned as their EXIF orientation says.
    """

    root: str
    files: np.ndarray
    labels: np.ndarray
    upright: bool = True
    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> EncodedImage:
        name = os.fsdecode(self.files[index])
        data = read_file(Path(self.root, name))
        # A name in another encoding than UTF-8 could not be printed.
        shown = os.fsencode(name).decode(errors="replace")
        return EncodedImage(UprightFile(data) if self.upright else data, int(self.labels[index]), shown)


def open_folder(root: Path, log: Callable[[str], None]) -> ImageDataset:
    """A folder as a data set, see `images.open_images`."""
    if not root.is_dir():
        raise InputError(f"the folder data_dir={root} does not exist")
    classes, tested = _classes(root / "train"), _classes(root / "val")
    class_names = tuple(names[0] for names in classes.values())
    for name in sorted(set(tested) - set(classes)):
        like = [each for each in class_names if _alike(each) == _alike(name)]
        hint = f", which has {like[0]!r}: give both the same name" if like else ""
        raise InputError(
            f"{root / 'val'} holds the class {name!r}, which {root / 'train'} lacks{hint}: "
            "what a network is tested on, it must have been trained on"
        )
    upright = not all(re.fullmatch(r"n\d{8}", name) for name in class_names)
    train = _split(root, "train", list(classes.values()), upright, log)
    validation = _split(root, "val", [tested.get(name, []) for name in classes], upright, log)
    arrays = (train.files, train.labels, validation.files, validation.labels)
    crc = zlib.crc32(b"".join(array.tobytes() for array in arrays))
    return ImageDataset("folder", train, validation, class_names, crc)


def same_name(name: str) -> str:
    """The name of a class, the same for all ways to compose its accents: macOS writes é as two characters."""
    return unicodedata.normalize("NFC", name)


def _alike(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _classes(folder: Path) -> dict[str, list[str]]:
    """The classes of a split in the order of their folders; those of names that differ only in how accents are composed
    are one, which the first of them names.
    """
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist: {folder.parent} should hold train/CLASS/*.jpg and val/…")
    classes: dict[str, list[str]] = {}
    for entry in listed(folder):
        if entry.name.startswith(".") or not is_folder(entry):
            continue
        if not entry.name.isprintable():  # which bytes that are no UTF-8 are not, either
            raise InputError(
                f"{folder} holds a folder {entry.name!r}, which cannot be printed: give the class another name"
            )
        classes.setdefault(same_name(entry.name), []).append(entry.name)
    if not classes:
        raise InputError(f"{folder} holds no folders: put the images of each class into {folder}/CLASS")
    return classes


def _split(
    root: Path, split: str, classes: Sequence[Sequence[str]], upright: bool, log: Callable[[str], None]
) -> FolderImages:
    files, labels, passed = [], [], []
    for label, names in enumerate(classes):
        found, ignored = [], []
        for folder in names:
            images, without = image_files(root / split / folder)
            found += [os.fsencode(os.path.join(split, folder, image)) for image in images]
            ignored += [(reason, os.path.join(folder, path)) for reason, path in without]
        if not found and split == "train":
            raise without_images(root / split / names[0], ignored, ", or remove the folder")
        files += found
        labels += [label] * len(found)
        passed += ignored
    for entry in listed(root / split):
        if entry.name.startswith("."):
            passed.append(("hidden", entry.name))
        elif not is_folder(entry):
            passed.append(("beside the folders of the classes", entry.name))
    if not files:
        raise without_images(root / split, passed, "")
    if passed:
        log(f"{root / split}: passed over: {reasons(passed)}")
    return FolderImages(str(root), np.array(files), np.array(labels, np.int32), upright)
