"""Data sets too large for memory: ImageNet as TFDS prepared it, folders of images, and caches of either. Random access
to image files, undecoded, without TensorFlow.
"""

import functools
import json
import mmap
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from resnet_jax.data.folders import NO_IMAGES, describe, image_files, is_folder, listed, reasons
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.prepared import open_records
from resnet_jax.data.tiles import ImageData, TiledJpeg
from resnet_jax.errors import InputError, complain
from resnet_jax.files import expanded

NAMES = ("imagenet2012", "folder", "cache")

SPLITS = ("train", "validation")


class Photograph(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
      data: the bytes of its file, an `UprightFile` where its EXIF orientation is to be applied; of a cache a JPEG in
        tiles, or pixels, (height, width, 3) uint8, that lie in a mapped file and cannot be written to.
      label: its class.
      name: of its file, for messages.
    """

    data: ImageData
    label: int
    name: str


class Photographs(Protocol):
    """Photographs by their index; workers get a copy of it, so it can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Photograph: ...


@dataclass(frozen=True)
class PhotographDataset:
    """The splits of a data set.

    Attributes:
      train, validation: the photographs.
      class_names: in the order of the labels.
      crc: CRC-32 of what the data set says of itself, for a folder the names and labels of its files; another data set
        gives another one. Nobody reads a million files to notice that one was replaced under its name.
      shorter_side: of a cache, what photographs were resized to where they were larger, in pixels; or None.
    """

    train: Photographs
    validation: Photographs
    class_names: tuple[str, ...]
    crc: int
    shorter_side: int | None = None


def open_photographs(
    name: str, data_dir: str | os.PathLike[str] | None, say: Callable[[str], None] = complain
) -> PhotographDataset:
    """Opens a data set for random access; nothing is decoded.

    A folder holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or images in any format that Pillow reads, also in folders
    below those (see `folders.image_files`). Names of classes that differ only in how Unicode composes their accents are
    one class. Photographs are turned as their EXIF orientation says, unless all classes are named as ImageNet's are,
    n01440764: of these, as of "imagenet2012", it is ignored, as it is by everybody who trains on them.

    Args:
      name: "imagenet2012", as TFDS prepared it, "folder", or "cache": what `data.cache` wrote.
      data_dir: where TFDS keeps its prepared data sets (`~/tensorflow_datasets` by default), or the folder.
      say: is given a line about each split of a folder in which files are passed over.

    Raises:
      InputError: an unknown name, data that are absent or incomplete, or classes that do not fit together.
    """
    if name == "imagenet2012":
        return _imagenet(data_dir)
    if name == "folder":
        if data_dir is None:
            raise InputError("config.dataset.data_dir is missing: it names a folder that holds train/CLASS/*.jpg")
        return _folder(expanded(data_dir, "dataset.data_dir"), say)
    if name == "cache":
        if data_dir is None:
            raise InputError(
                "config.dataset.data_dir is missing: it names a folder that resnet-jax prepare cache wrote"
            )
        return _cache(expanded(data_dir, "dataset.data_dir"))
    raise InputError(f"unknown dataset.name {name!r}: it is one of {', '.join(NAMES)}")


@dataclass(frozen=True)
class RecordPhotographs:
    """A split of a prepared data set."""

    records: Sequence[Any]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Photograph:
        record = self.records[index]
        return Photograph(record["image"], int(record["label"]), record["file_name"].decode())


def _imagenet(data_dir: str | os.PathLike[str] | None) -> PhotographDataset:
    records = open_records("imagenet2012", data_dir, SPLITS)
    train, validation = (RecordPhotographs(records.splits[split]) for split in SPLITS)
    identity = f"imagenet2012 {records.version} {len(train)} {len(validation)}"
    return PhotographDataset(train, validation, records.class_names, zlib.crc32(identity.encode()))


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
      InputError: it is gone, or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class FolderPhotographs:
    """Image files under one folder.

    Attributes:
      root: the folder.
      files: their paths below it, as bytes: a million of them are copied into every worker.
      labels: their classes, int32.
      upright: whether they are turned as their EXIF orientation says.
    """

    root: str
    files: np.ndarray
    labels: np.ndarray
    upright: bool = True

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Photograph:
        name = os.fsdecode(self.files[index])
        data = read_file(Path(self.root, name))
        # A name in another encoding than UTF-8 could not be printed.
        shown = os.fsencode(name).decode(errors="replace")
        return Photograph(UprightFile(data) if self.upright else data, int(self.labels[index]), shown)


def _folder(root: Path, say: Callable[[str], None]) -> PhotographDataset:
    if not root.is_dir():
        raise InputError(f"the folder dataset.data_dir={root} does not exist")
    classes, tested = _classes(root / "train"), _classes(root / "val")
    class_names = tuple(classes)
    if unknown := set(map(same_name, tested)) - set(map(same_name, class_names)):
        _refuse_class(root, min(unknown), class_names)
    tested = {same_name(name): folders for name, folders in tested.items()}
    tested = {name: tested.get(same_name(name), []) for name in class_names}
    upright = not all(re.fullmatch(r"n\d{8}", name) for name in class_names)
    train = _split(root, "train", classes, upright, say)
    validation = _split(root, "val", tested, upright, say)
    crc = 0
    for split in (train, validation):
        crc = zlib.crc32(split.labels.tobytes(), zlib.crc32(split.files.tobytes(), crc))
    return PhotographDataset(train, validation, class_names, crc)


def _but(described: str) -> str:
    return f"; passed over: {described}" if described else ""


def same_name(name: str) -> str:
    """The name of a class, the same for all ways to compose its accents: macOS writes é as two characters."""
    return unicodedata.normalize("NFC", name)


def _refuse_class(root: Path, name: str, class_names: Sequence[str]) -> None:
    def alike(name: str) -> str:
        return unicodedata.normalize("NFKC", name).casefold().strip()

    like = [each for each in class_names if alike(each) == alike(name)]
    hint = f", which has {like[0]!r}: give both the same name" if like else ""
    raise InputError(
        f"{root / 'val'} holds the class {name!r}, which {root / 'train'} lacks{hint}: "
        "what a network is tested on, it must have been trained on"
    )


def _classes(folder: Path) -> dict[str, list[str]]:
    """The classes of a split in their order, with their folders: several, where these differ only in how accents are
    composed.
    """
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist: {folder.parent} should hold train/CLASS/*.jpg and val/…")
    names = [entry.name for entry in listed(folder) if is_folder(entry) and not entry.name.startswith(".")]
    if not names:
        raise InputError(f"{folder} holds no folders: put the images of each class into {folder}/CLASS")
    alike: dict[str, list[str]] = {}
    for name in names:
        if not name.isprintable():  # which bytes that are no UTF-8 are not, either
            raise InputError(f"{folder} holds a folder {name!r}, which cannot be printed: give the class another name")
        alike.setdefault(same_name(name), []).append(name)
    # Named as the first of its folders is: a data set of decomposed names keeps the order that it always had.
    return {found[0]: found for found in alike.values()}


def _split(
    root: Path, split: str, classes: dict[str, list[str]], upright: bool, say: Callable[[str], None]
) -> FolderPhotographs:
    files, labels = [], []
    passed: dict[str, list[tuple[str, str]]] = {}
    for label, (name, folders) in enumerate(classes.items()):
        found = [(folder, image_files(root / split / folder)) for folder in folders]
        images = [os.fsencode(os.path.join(split, folder, image)) for folder, each in found for image in each.images]
        passed[f"class {name}"] = [one for _, each in found for one in each.passed]
        if not images and split == "train":
            raise InputError(f"{root / split / folders[0]} {NO_IMAGES}{_but(reasons(passed[f'class {name}']))}")
        files += images
        labels += [label] * len(images)
    passed["no class"] = [
        ("hidden" if entry.name.startswith(".") else "beside the folders of the classes", entry.name)
        for entry in listed(root / split)
        if entry.name.startswith(".") or not is_folder(entry)
    ]
    if not files:
        raise InputError(f"{root / split} {NO_IMAGES}{_but(describe(passed))}")
    if described := describe(passed):
        say(f"{root / split}: passed over: {described}")
    return FolderPhotographs(str(root), np.array(files), np.array(labels, np.int32), upright)


# A photograph in the index of a cache: the file that holds it, where it begins there, and how many bytes it has. Where
# `tiles` is 0 these are pixels; otherwise they are so many int32, the tiles, and then the JPEG.
CACHE_ROW = [
    ("shard", np.int32),
    ("begin", np.int64),
    ("bytes", np.int64),
    ("tiles", np.int32),
    ("height", np.int32),
    ("width", np.int32),
    ("label", np.int32),
]


def cache_file(split: str, shard: int) -> str:
    """The name of a file of photographs in a cache."""
    return f"{split}-{shard:05d}.photographs"


@dataclass(frozen=True)
class CachedPhotographs:
    """A split of a cache.

    Attributes:
      root: the folder.
      split: "train" or "validation".
      count: of its photographs.
      version: of the folder; another cache that is written there has another one.
    """

    root: str
    split: str
    count: int
    version: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Photograph:
        # Workers get two names and two numbers, and map the files themselves.
        row = _index(os.path.join(self.root, f"{self.split}.npy"), self.version)[index]
        shard = _mapped(os.path.join(self.root, cache_file(self.split, int(row["shard"]))), self.version)
        begin, size, tiles = int(row["begin"]), int(row["bytes"]), int(row["tiles"])
        if tiles:
            starts = np.frombuffer(shard, np.int32, tiles, begin)
            data = TiledJpeg(shard[begin + starts.nbytes : begin + size], starts)
        else:
            pixels = np.frombuffer(shard, np.uint8, size, begin)
            data = pixels.reshape(int(row["height"]), int(row["width"]), 3)
        return Photograph(data, int(row["label"]), os.fsdecode(row["name"]))


@functools.cache
def _index(path: str, version: int) -> np.ndarray:
    del version  # of the folder: a file of the same name in another version is another file
    return np.load(path, mmap_mode="r").view(np.ndarray)


@functools.cache
def _mapped(path: str, version: int) -> mmap.mmap:
    del version
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _cache(root: Path) -> PhotographDataset:
    try:
        card = json.loads((root / "cache.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{root} is no cache of photographs (no readable cache.json): write one with resnet-jax prepare cache"
        ) from error
    if not card["complete"]:
        raise InputError(f"the cache in {root} is not complete: go on with {card['command']}")
    for name, size in card["files"].items():
        path = root / name
        if not path.exists() or path.stat().st_size != size:
            raise InputError(
                f"{path} should have {size} bytes and "
                f"{f'has {path.stat().st_size}' if path.exists() else 'does not exist'}: copy the cache once more"
            )
    # Absolute: the files stay mapped, and another folder may come to be meant by the same words.
    where, version = str(root.absolute()), (root / "cache.json").stat().st_mtime_ns
    train, validation = (CachedPhotographs(where, split, card["photographs"][split], version) for split in SPLITS)
    settings = card["settings"]
    crc = zlib.crc32(json.dumps([settings, card["photographs"]], sort_keys=True).encode())
    return PhotographDataset(train, validation, tuple(card["class_names"]), crc, settings["shorter_side"])
