"""Data sets as TFDS prepares them, in array_record files. This file alone knows TFDS."""

import contextlib
import importlib.util
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.data.encoded import SPLITS, EncodedImage, ImageDataset
from resnet_jax.errors import InputError
from resnet_jax.files import expanded

# Those that this package trains on.
NAMES = ("cifar10", "cifar100", "imagenet2012")


class Records(NamedTuple):
    """The undecoded records of a data set's splits, by their names: dicts of "image" (bytes), "label" (int) and, where
    the data set has names, "file_name".
    """

    folder: Path
    splits: dict[str, Any]
    class_names: tuple[str, ...]
    version: str


def open_records(name: str, data_dir: str | os.PathLike[str] | None, splits: Sequence[str]) -> Records:
    """Opens splits of a prepared data set for random access, without TensorFlow and without decoding.

    Raises:
      InputError: the data are absent, of another data set, or hold no images with labels.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets import decode

    folder = prepared_folder(name, data_dir)
    builder = tfds.builder_from_directory(folder)
    features: Any = builder.info.features
    if features is None or "label" not in features or "image" not in features:
        raise InputError(f"{folder} does not hold images with labels: is it really {name}?")
    if builder.info.name != name:
        raise InputError(f"{folder} holds the data set {builder.info.name!r}, not {name!r}")
    opened = {}
    for split in splits:
        try:
            opened[split] = builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})  # pyright: ignore[reportCallIssue]
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"the {split} split in {folder} cannot be read: {error}") from error
    return Records(folder, opened, tuple(features["label"].names), str(builder.info.version))


@dataclass(frozen=True)
class TfdsImages:
    """A split of a prepared data set."""

    records: Sequence[Any]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> EncodedImage:
        record = self.records[index]
        return EncodedImage(record["image"], int(record["label"]), record["file_name"].decode())


def open_imagenet(data_dir: str | os.PathLike[str] | None) -> ImageDataset:
    """ImageNet, undecoded; errors as of `open_records`."""
    records = open_records("imagenet2012", data_dir, SPLITS)
    train, validation = (TfdsImages(records.splits[split]) for split in SPLITS)
    identity = f"imagenet2012 {records.version} {len(train)} {len(validation)}"
    return ImageDataset("imagenet2012", train, validation, records.class_names, zlib.crc32(identity.encode()))


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 synsets of ImageNet, n01440764 …, in the order of their labels; TFDS ships them."""
    found = importlib.util.find_spec("tensorflow_datasets")
    locations = found.submodule_search_locations if found else None
    assert locations, "tensorflow-datasets is not installed"
    labels = Path(locations[0], "datasets", "imagenet2012", "labels.txt")
    return tuple(labels.read_text().split())


def _root(data_dir: str | os.PathLike[str] | None) -> Path:
    return expanded("~/tensorflow_datasets" if data_dir is None else data_dir, "data_dir")


def prepared_folder(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of a data set's newest version in array_record files; or an InputError that says how to prepare it."""
    root = _root(data_dir)
    prepare = f"prepare it with: resnet-jax prepare --dataset={name} --data_dir={root}"
    if not root.is_dir():
        raise InputError(f"the folder data_dir={root} does not exist; {prepare}")
    versions = [path.parent for path in (root / name).glob("*/dataset_info.json")]
    if not versions:
        present = sorted(path.parent.parent.name for path in root.glob("*/*/dataset_info.json"))
        holds = f"it holds {', '.join(present)}" if present else "it holds no prepared data set"
        raise InputError(f"data_dir={root} does not hold {name!r} ({holds}); {prepare}")
    folder = max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version.name)])
    if not list(folder.glob("*.array_record*")):
        raise InputError(f"{folder} holds no array_record files, which reading without TensorFlow needs; {prepare}")
    return folder


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Downloads a data set and writes it as array_record files, once, through TFDS and TensorFlow.

    ImageNet cannot be downloaded without an account: its archives are put into a folder by hand first.

    Raises:
      InputError: an unknown name, TensorFlow is not installed, the download failed, or ImageNet's archives are absent.
    """
    if name == "digits":
        raise InputError("digits needs no preparation: it ships inside scikit-learn")
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}: it is one of {', '.join(NAMES)}")
    with contextlib.suppress(InputError):
        return prepared_folder(name, data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            "preparing a data set for the first time needs TensorFlow (training does not): pip install tensorflow"
        )
    root = _root(data_dir)
    archives = [root / "downloads" / "manual" / f"ILSVRC2012_img_{split}.tar" for split in ("train", "val")]
    if name == "imagenet2012" and not all(archive.is_file() for archive in archives):
        raise InputError(
            f"{archives[0].name} and {archives[1].name} are missing in {archives[0].parent}: "
            "download them from image-net.org, which wants an account"
        )
    import requests
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=root, file_format="array_record").download_and_prepare()
    except (OSError, requests.RequestException) as error:
        raise InputError(f"{name} could not be downloaded to {root}: {error}") from error
    return prepared_folder(name, data_dir)
