"""Data sets too large for memory: ImageNet as TFDS prepared it, folders of images, and caches of either. Random access
to image files, undecoded, without TensorFlow.
"""

import functools
import json
import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from resnet_jax.data.prepared import open_records
from resnet_jax.data.tiles import ImageData, TiledJpeg
from resnet_jax.errors import InputError
from resnet_jax.files import expanded

NAMES = ("imagenet2012", "folder", "cache")

SPLITS = ("train", "validation")

# What Pillow reads and people have. Others in a class folder are passed over.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class Photograph(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
      data: the bytes of its file; of a cache a JPEG in tiles, or pixels, (height, width, 3) uint8, that lie in a mapped
        file and cannot be written to.
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
    """

    train: Photographs
    validation: Photographs
    class_names: tuple[str, ...]
    crc: int


def open_photographs(name: str, data_dir: str | os.PathLike[str] | None) -> PhotographDataset:
    """Opens a data set for random access; nothing is decoded.

    Args:
      name: "imagenet2012", as TFDS prepared it, "folder": `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or "cache": what
        `data.cache` wrote.
      data_dir: where TFDS keeps its prepared data sets (`~/tensorflow_datasets` by default), or the folder.

    Raises:
      InputError: an unknown name, data that are absent or incomplete, or classes that do not fit together.
    """
    if name == "imagenet2012":
        return _imagenet(data_dir)
    if name == "folder":
        if data_dir is None:
            raise InputError("config.dataset.data_dir is missing: it names a folder that holds train/CLASS/*.jpg")
        return _folder(expanded(data_dir, "dataset.data_dir"))
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
    """

    root: str
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Photograph:
        name = os.fsdecode(self.files[index])
        # A name in another encoding than UTF-8 could not be printed.
        return Photograph(
            read_file(Path(self.root, name)), int(self.labels[index]), os.fsencode(name).decode(errors="replace")
        )


def _folder(root: Path) -> PhotographDataset:
    if not root.is_dir():
        raise InputError(f"the folder dataset.data_dir={root} does not exist")
    class_names = _class_names(root / "train")
    if unknown := set(_class_names(root / "val")) - set(class_names):
        raise InputError(
            f"{root / 'val'} holds the class {min(unknown)!r}, which {root / 'train'} lacks: "
            "what a network is tested on, it must have been trained on"
        )
    train, validation = (_split(root, split, class_names) for split in ("train", "val"))
    crc = 0
    for split in (train, validation):
        crc = zlib.crc32(split.labels.tobytes(), zlib.crc32(split.files.tobytes(), crc))
    return PhotographDataset(train, validation, class_names, crc)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist: {folder.parent} should hold train/CLASS/*.jpg and val/…")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{folder} holds no folders: put the images of each class into {folder}/CLASS")
    for name in names:
        if not name.isprintable():  # which bytes that are no UTF-8 are not, either
            raise InputError(f"{folder} holds a folder {name!r}, which cannot be printed: give the class another name")
    return tuple(names)


def _split(root: Path, split: str, class_names: tuple[str, ...]) -> FolderPhotographs:
    files, labels = [], []
    for label, name in enumerate(class_names):
        folder = root / split / name
        if not folder.is_dir():
            continue  # a class that is trained on and not tested
        entries = (entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        images = sorted(name for name in entries if name.lower().endswith(SUFFIXES))
        if not images and split == "train":
            raise InputError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        files += [os.fsencode(os.path.join(split, name, image)) for image in images]
        labels += [label] * len(images)
    if not files:
        raise InputError(f"{root / split} holds no images ({', '.join(SUFFIXES)})")
    return FolderPhotographs(str(root), np.array(files), np.array(labels, np.int32))


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
    """

    root: str
    split: str
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Photograph:
        # Workers get two names and a number, and map the files themselves.
        row = _index(os.path.join(self.root, f"{self.split}.npy"))[index]
        shard = _mapped(os.path.join(self.root, cache_file(self.split, int(row["shard"]))))
        begin, size, tiles = int(row["begin"]), int(row["bytes"]), int(row["tiles"])
        if tiles:
            starts = np.frombuffer(shard, np.int32, tiles, begin)
            data = TiledJpeg(shard[begin + starts.nbytes : begin + size], starts)
        else:
            pixels = np.frombuffer(shard, np.uint8, size, begin)
            data = pixels.reshape(int(row["height"]), int(row["width"]), 3)
        return Photograph(data, int(row["label"]), os.fsdecode(row["name"]))


@functools.cache
def _index(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r").view(np.ndarray)


@functools.cache
def _mapped(path: str) -> mmap.mmap:
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
    train, validation = (CachedPhotographs(str(root), split, card["photographs"][split]) for split in SPLITS)
    identity = json.dumps([card["settings"], card["photographs"]], sort_keys=True)
    return PhotographDataset(train, validation, tuple(card["class_names"]), zlib.crc32(identity.encode()))
