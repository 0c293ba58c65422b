"""Small data sets as whole uint8 arrays: the bundled digits, and CIFAR as TFDS prepared it."""

import contextlib
import functools
import importlib.util
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.struct
import jax
import numpy as np

from resnet_jax.data.batch import Batch, batch_indices
from resnet_jax.data.decode import UnreadableImageError, decode
from resnet_jax.data.tfds import open_records, prepared_folder
from resnet_jax.errors import InputError, check_whole, short_repr

NAMES = ("digits", "cifar10", "cifar100")


@flax.struct.dataclass
class Split:
    """Images, (count, height, width, channels) uint8, and their labels, (count,) int32: on the host or on devices."""

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    __repr__ = short_repr

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        """The image and the label of a number, or the split of a slice or of an array of numbers or truth values."""
        if isinstance(rows, int | np.integer):
            row = range(len(self))[rows]  # past the end an IndexError; JAX would give the last one
            return self.images[row], self.labels[row]
        return self.take(rows)

    def take(self, rows: Any) -> "Split":
        """The examples of these rows."""
        rows = np.asarray(rows) if isinstance(rows, list | range) else rows  # JAX takes neither
        return Split(self.images[rows], self.labels[rows])

    def batches(self, batch_size: int, steps: int | None = None, seed: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of the steps from `start` on, uint8: those that a run of this seed trains on, without end where
        `steps` is None. Augmentation is left to the device, see `augment.pad_crop_mirror`.
        """
        check_whole(batch_size=batch_size)
        indices = jax.jit(batch_indices, static_argnums=(2, 3))
        for step in itertools.count(start) if steps is None else range(start, start + steps):
            rows = np.asarray(indices(seed, step, batch_size, len(self)))
            yield Batch(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set; `validation` holds training images kept back, if any were asked for."""

    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    __repr__ = short_repr


def load(name: str, data_dir: str | os.PathLike[str] | None = None, validation_images: int = 0) -> Dataset:
    """Reads a data set into memory, once while its files stay as they are: the arrays are shared, and not writeable.

    Args:
      name: "digits", "cifar10" or "cifar100".
      data_dir: where TFDS keeps its prepared data sets (`~/tensorflow_datasets` by default); unused by digits.
      validation_images: how many training images to keep back, the same ones for every seed; 5000 is the paper's
        45k/5k split (section 4.2).

    Raises:
      InputError: unknown name, data that is absent or of another data set, or too many validation images.
    """
    if name not in NAMES:
        raise InputError(
            f"unknown data set {name!r}: it is one of {', '.join(NAMES)}; photographs are opened by image_folder"
        )
    if name == "digits":
        return _load(name, None, validation_images, ())
    folder = prepared_folder(name, data_dir).absolute()
    # What tells its files from those that were read before.
    files = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    seen = tuple((name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in files)
    # The folder's data_dir, and not the given one: another folder may have come to be meant by that.
    return _load(name, str(folder.parents[1]), validation_images, seen)


@functools.lru_cache(maxsize=1)
def _load(name: str, data_dir: str | None, validation_images: int, _seen: tuple[Any, ...]) -> Dataset:
    dataset = _digits() if name == "digits" else _cifar(name, data_dir)
    if validation_images:
        if not 0 < validation_images < len(dataset.train):
            raise InputError(
                f"validation_images is {validation_images}, but {name} has {len(dataset.train)} training images"
            )
        order = np.random.default_rng(0).permutation(len(dataset.train))
        kept, held = np.sort(order[validation_images:]), np.sort(order[:validation_images])
        dataset = replace(dataset, train=dataset.train.take(kept), validation=dataset.train.take(held))
    for array in jax.tree.leaves((dataset.train, dataset.validation, dataset.test)):
        array.flags.writeable = False
    return dataset


def checksum(split: Split) -> int:
    """CRC-32 of all images and labels."""
    return zlib.crc32(split.labels.tobytes(), zlib.crc32(split.images.tobytes()))


def _digits() -> Dataset:
    """The 1,797 handwritten digits (8x8, grey) that ship inside scikit-learn, a fifth of each class for testing."""
    scans = _scans()
    # The scans have 17 grey levels, 0 to 16.
    images = np.rint(scans[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = scans[:, -1].astype(np.int32)
    whole, (train, test) = Split(images, labels), _divided(labels)
    return Dataset(whole.take(train), None, whole.take(test), tuple(str(digit) for digit in range(10)))


def _scans() -> np.ndarray:
    """A row of 64 grey levels and the label for each digit, float64."""
    # To import scikit-learn for this file took 1.0 of the 10.3 processor seconds of a short run; to read it takes 0.01.
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        with contextlib.suppress(OSError, ValueError):  # another version may keep them in another way
            scans = np.loadtxt(path, delimiter=",")
            if scans.shape == (1797, 65):
                return scans
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.column_stack([digits.data, digits.target])


# How many digits of each class are for training: four fifths, rounded so that there are 1,437 in all.
_TRAINED = (142, 146, 142, 146, 145, 145, 145, 143, 139, 144)


def _divided(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and those to test on: the rows, in the order, of scikit-learn's
    `train_test_split(rows, test_size=0.2, stratify=labels, random_state=0)`, which divided the digits of runs so far.
    """
    random = np.random.RandomState(0)  # its draws are the same in all versions of NumPy
    for _ in range(2):
        random.permutation(2)  # the lots that it drew where two classes had the same claim to be rounded up
    train, test = [], []
    for label, count in enumerate(_TRAINED):
        rows = random.permutation(np.flatnonzero(labels == label))
        train.append(rows[:count])
        test.append(rows[count:])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def _cifar(name: str, data_dir: str | None) -> Dataset:
    records, splits = open_records(name, data_dir, ("train", "test")), {}
    for split, source in records.splits.items():
        try:
            # Undecoded records, since TFDS decodes slowly; and no threads, which make such small images slower.
            read = source.__getitems__(list(range(len(source))))
            images = np.stack([decode(record["image"]) for record in read])
        except (OSError, RuntimeError, ValueError, UnreadableImageError) as error:
            raise InputError(f"the {split} split in {records.folder} cannot be read: {error}") from error
        splits[split] = Split(images, np.array([record["label"] for record in read], np.int32))
    return Dataset(splits["train"], None, splits["test"], records.class_names)
