"""Images that are not decoded yet: what data sets too large for memory hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from resnet_jax.data.tiles import ImageData
from resnet_jax.errors import InputError, short_repr

SPLITS = ("train", "validation")


class EncodedImage(NamedTuple):
    """An image that is not decoded yet, its class, and the name of its file, for messages.

    The data are the file's bytes, an `UprightFile` where its EXIF orientation is to be applied; of a cache a JPEG in
    tiles, or pixels, (height, width, 3) uint8, that lie in a mapped file and cannot be written to.
    """

    data: ImageData
    label: int
    name: str
    __repr__ = short_repr


class ImageSource(Protocol):
    """Undecoded images by their index; workers get a copy of it, so it can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> EncodedImage: ...


@dataclass(frozen=True)
class ImageDataset:
    """A data set's name, as `open_images` knows it, its splits, and its classes in the order of the labels.

    Attributes:
      crc: CRC-32 of what the data set says of itself, for a folder the names and labels of its files: nobody reads a
        million files to notice that one was replaced under its name.
      resize_size: of a cache, what the shorter sides of larger images became, in pixels; or None.
    """

    name: str
    train: ImageSource
    validation: ImageSource
    class_names: tuple[str, ...]
    crc: int
    resize_size: int | None = None
    __repr__ = short_repr


def read_file(path: Path) -> bytes:
    """The bytes of a file; an InputError where it is gone, or cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
