"""Small data sets as whole uint8 arrays: the bundled digits, and CIFAR as TFDS prepared it. This file alone knows
TFDS.
"""

import functools
import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.errors import InputError

NAMES = ("digits", "cifar10", "cifar100")


@dataclass(frozen=True)
class Split:
    """Images, (count, height, width, channels) uint8, and their labels, (count,) int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set; `validation` holds training images kept back, if any were asked for."""

    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]


@functools.lru_cache(maxsize=1)  # a sweep reads its data once
def load(name: str, data_dir: str | None = None, validation_images: int = 0) -> Dataset:
    """Reads a data set into memory.

    Args:
      name: "digits", "cifar10" or "cifar100".
      data_dir: where TFDS keeps its prepared data sets (`~/tensorflow_datasets` by default); unused by digits.
      validation_images: how many training images to keep back; 5000 is the paper's 45k/5k split (section 4.2). Which
        ones is fixed, whatever the seed of a run.

    Raises:
      InputError: unknown name, data that is absent or of another data set, or too many validation images.
    """
    if name == "digits":
        dataset = _digits()
    elif name in ("cifar10", "cifar100"):
        dataset = _cifar(name, data_dir)
    else:
        raise InputError(f"unknown dataset.name {name!r}: it is one of {', '.join(NAMES)}")
    if validation_images:
        if not 0 < validation_images < len(dataset.train):
            raise InputError(
                f"dataset.validation_images is {validation_images}, but {name} has {len(dataset.train)} training images"
            )
        order = np.random.default_rng(0).permutation(len(dataset.train))
        kept, held = np.sort(order[validation_images:]), np.sort(order[:validation_images])
        train = dataset.train
        dataset = replace(
            dataset,
            train=Split(train.images[kept], train.labels[kept]),
            validation=Split(train.images[held], train.labels[held]),
        )
    return dataset


def checksum(split: Split) -> int:
    """CRC-32 of all images and labels."""
    return zlib.crc32(split.labels.tobytes(), zlib.crc32(split.images.tobytes()))


def _digits() -> Dataset:
    """The 1,797 handwritten digits (8x8, grey) that ship inside scikit-learn, a fifth of each class for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans: Any = load_digits()
    # The scans have 17 grey levels, 0 to 16.
    images = np.rint(scans.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = scans.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = (Split(images[rows], labels[rows]) for rows in (train, test))
    return Dataset(next(splits), None, next(splits), tuple(str(digit) for digit in range(10)))


def _cifar(name: str, data_dir: str | None) -> Dataset:
    import tensorflow_datasets as tfds

    folder = prepared_folder(name, data_dir)
    builder = tfds.builder_from_directory(folder)
    features: Any = builder.info.features
    label_key = "label"
    if features is None or label_key not in features or "image" not in features:
        raise InputError(f"{folder} does not hold images with labels: is it really {name}?")
    if builder.info.name != name:
        raise InputError(f"{folder} holds the data set {builder.info.name!r}, not {name!r}")
    names = tuple(features[label_key].names)
    train, test = (_read_split(builder, split, label_key) for split in ("train", "test"))
    return Dataset(train, None, test, names)


def prepared_folder(name: str, data_dir: str | None) -> Path:
    """The folder of the newest prepared version of a TFDS data set, in array_record files.

    Raises:
      InputError: there is none; the message says which command prepares it.
    """
    root = Path(data_dir or "~/tensorflow_datasets").expanduser()
    prepare = f"prepare it with: resnet-jax prepare --dataset={name} --data_dir={root}"
    if not root.is_dir():
        raise InputError(f"the folder dataset.data_dir={root} does not exist; {prepare}")
    versions = sorted((root / name).glob("*/dataset_info.json"), key=lambda path: path.parent.name)
    if not versions:
        present = sorted(path.parent.parent.name for path in root.glob("*/*/dataset_info.json"))
        holds = f"it holds {', '.join(present)}" if present else "it holds no prepared data set"
        raise InputError(f"dataset.data_dir={root} does not hold {name!r} ({holds}); {prepare}")
    folder = versions[-1].parent
    if not list(folder.glob("*.array_record*")):
        raise InputError(f"{folder} holds no array_record files, which reading without TensorFlow needs; {prepare}")
    return folder


def _read_split(builder, split: str, label_key: str) -> Split:
    from tensorflow_datasets import decode

    try:
        source = builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})
        # Undecoded records and our own decoding: three times faster than TFDS's decoding with Pillow.
        records = source.__getitems__(list(range(len(source))))
        with ThreadPoolExecutor() as threads:
            images = np.stack(list(threads.map(lambda record: _decode(record["image"]), records)))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"the {split} split in {builder.data_path} cannot be read: {error}") from error
    return Split(images, np.array([record[label_key] for record in records], np.int32))


def _decode(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def prepare(name: str, data_dir: str | None = None) -> Path:
    """Downloads a data set and writes it as array_record files, once, through TFDS and TensorFlow.

    Raises:
      InputError: an unknown name, TensorFlow is not installed, or the download failed.
    """
    import importlib.util

    if name not in NAMES:
        raise InputError(f"unknown --dataset={name!r}: it is one of {', '.join(NAMES)}")
    if name == "digits":
        raise InputError("digits needs no preparation: it ships inside scikit-learn")
    try:
        return prepared_folder(name, data_dir)
    except InputError:
        pass
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            "preparing a data set for the first time needs TensorFlow (training does not): pip install tensorflow"
        )
    import requests
    import tensorflow_datasets as tfds

    root = Path(data_dir or "~/tensorflow_datasets").expanduser()
    try:
        tfds.builder(name, data_dir=root, file_format="array_record").download_and_prepare()
    except (OSError, requests.RequestException) as error:
        raise InputError(f"{name} could not be downloaded to {root}: {error}") from error
    return prepared_folder(name, data_dir)
