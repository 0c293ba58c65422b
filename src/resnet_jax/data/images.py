"""Data sets too large for memory, by their names: ImageNet as TFDS prepared it, folders of images, caches of either."""

import contextlib
import itertools
import numbers
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp

from resnet_jax.data import small
from resnet_jax.data.batch import Batch
from resnet_jax.data.cache import open_cache
from resnet_jax.data.encoded import EncodedImage, ImageDataset, ImageSource
from resnet_jax.data.folders import open_folder
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.sequential import central_batches
from resnet_jax.data.stream import CROPS, Cropping, DamageReport, TrainBatches
from resnet_jax.data.tfds import open_imagenet
from resnet_jax.errors import InputError, check_whole, did_you_mean, short_repr, warn
from resnet_jax.files import expanded

NAMES = ("imagenet2012", "folder", "cache")


def check_dataset(name: str, data_dir: str | os.PathLike[str] | None = None, what: str = "data set") -> None:
    """Refuses the name of no data set, photographs or not, and a folder for the one that has none."""
    names = (*small.NAMES, *NAMES)
    if name not in names:
        hint = did_you_mean(str(name), names)
        raise InputError(f"unknown {what} {name!r}: {hint}it is one of {', '.join(names)}")
    if name == "digits" and data_dir is not None:
        raise InputError(
            f"data_dir is {str(data_dir)!r}, but the digits lie in no folder: leave it away, or name the data set that "
            "lies there"
        )


def open_images(name: str, data_dir: str | os.PathLike[str] | None, log: Callable[[str], None] = warn) -> ImageDataset:
    """Opens a data set for random access; nothing is decoded.

    A folder holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or images in any format that Pillow reads, also in folders
    below those (see `folders.image_files`). Names of classes that differ only in how Unicode composes their accents are
    one class. Images are turned as their EXIF orientation says, but not those of "imagenet2012" or where all classes
    are named as ImageNet's are, n01440764: everybody who trains on these ignores it.

    Args:
      name: "imagenet2012", as TFDS prepared it, "folder", or "cache": what `data.cache` wrote.
      data_dir: where TFDS keeps its prepared data sets (`~/tensorflow_datasets` by default), or the folder.
      log: is given a line about each split of a folder in which files are passed over.

    Raises:
      InputError: an unknown name, data that are absent or incomplete, or classes that do not fit together.
    """
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}: it is one of {', '.join(NAMES)}")
    if name == "imagenet2012":
        return open_imagenet(data_dir)
    if data_dir is None:
        what = "holds train/CLASS/*.jpg" if name == "folder" else "resnet-jax prepare cache wrote"
        raise InputError(f"data_dir is missing: it names a folder that {what}")
    folder = expanded(data_dir, "data_dir")
    return open_folder(folder, log) if name == "folder" else open_cache(folder)


@dataclass(frozen=True)
class ImageSplit:
    """A split of images, undecoded by their index, and decoded in batches; the options are those of `image_folder`."""

    source: ImageSource
    image_size: int
    resize_size: int
    num_workers: int
    max_corrupt_fraction: float
    log: Callable[[str], None] = field(repr=False)
    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> EncodedImage:
        return self.source[index]

    def batches(
        self, batch_size: int, steps: int | None = None, seed: int = 0, start: int = 0, crop: str = CROPS[0]
    ) -> Iterator[Batch]:
        """The batches of the steps from `start` on, without end where `steps` is None: random windows, uint8 RGB
        (batch, image_size, image_size, 3), and labels. Mirroring and colours are left to the device, see
        `augment.augment_images`.

        Batch k is a function of the seed and k. Every epoch shows each image once, in an order of its own; a batch may
        straddle two epochs. For a damaged image the next whole one is shown.

        Args:
          batch_size, steps, start: images in a batch, how many batches, and the first one's number.
          seed: of the order and of the windows.
          crop: "random_resized_crop" (8 to 100 % of the area, aspect 3/4 to 4/3), or "random_scale", the paper's: the
            shorter side is drawn from 256/224 to 480/224 of the window's.

        Raises:
          InputError: no such crop, or, while it is iterated, too many damaged images.
        """
        check_whole(batch_size=batch_size)
        if crop not in CROPS:
            raise InputError(f"crop is {crop!r}, but it must be one of {', '.join(CROPS)}")
        scales = (self.image_size * 256 // 224, self.image_size * 480 // 224)
        cropping = Cropping(crop, scales, self.image_size)
        found = TrainBatches(
            self.source, cropping, seed=seed, batch_size=batch_size, start=start, num_workers=self.num_workers
        )
        report = DamageReport(self.source, self.max_corrupt_fraction, self.log)

        def reported() -> Iterator[Batch]:
            with contextlib.closing(found):
                for batch in itertools.islice(found, steps):
                    report(batch.damaged)
                    yield Batch(batch.images, batch.labels)

        return reported()

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """The central windows of all images, each once and in order, uint8 (batch, image_size, image_size, 3).

        Rows past the last image, and those of damaged ones, have weight 0.
        """
        check_whole(batch_size=batch_size)
        report = DamageReport(self.source, self.max_corrupt_fraction, self.log, "it is left out")
        view = Preprocessing(jnp.zeros((1, 1, 3)), resize_size=self.resize_size)
        return central_batches(self.source, (self.image_size, self.image_size, 3), view, batch_size, report)


class ImageFolder(NamedTuple):
    """A folder of images: two splits, and the names of the classes in the order of the labels."""

    train: ImageSplit
    validation: ImageSplit
    class_names: tuple[str, ...]
    __repr__ = short_repr


def image_folder(
    folder: str | os.PathLike[str],
    image_size: int = 224,
    resize_size: int | None = None,
    num_workers: int = 0,
    max_corrupt_fraction: float = 0.01,
    log: Callable[[str], None] = warn,
) -> ImageFolder:
    """A folder that holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, for training and evaluation without a config.

    Args:
      folder: images in any format that Pillow reads, see `open_images`.
      image_size: the side of the images that a network is shown, in pixels.
      resize_size: the shorter side of an image before its centre is cut out; None is 256/224 of `image_size`.
      num_workers: processes that decode, for which a script needs `if __name__ == "__main__":`; 0 decodes in threads.
      max_corrupt_fraction: of a split's images that may be damaged; one may, unless it is 0.
      log: is given lines about files that are passed over, and about damaged images.

    Raises:
      InputError: the folder is absent, its classes do not fit together, a number is none that can be, or a centre is
        larger than its image.

    Example:
      >>> photos = image_folder("photos", image_size=224)  # doctest: +SKIP
      >>> for batch in photos.train.batches(batch_size=64, steps=100):  # doctest: +SKIP
      ...     state, metrics = step(state, batch)
    """
    check_whole(image_size=image_size)
    resize_size = image_size * 256 // 224 if resize_size is None else resize_size
    check_whole(resize_size=resize_size)
    check_whole(0, num_workers=num_workers)
    if image_size > resize_size:
        raise InputError(f"image_size is {image_size}, but it must be from 1 to resize_size={resize_size}")
    if not isinstance(max_corrupt_fraction, numbers.Real) or not 0 <= max_corrupt_fraction <= 1:
        raise InputError(f"max_corrupt_fraction is {max_corrupt_fraction!r}, but it must be a number from 0 to 1")
    opened = open_images("folder", folder, log)
    options = (image_size, resize_size, num_workers, max_corrupt_fraction, log)
    return ImageFolder(ImageSplit(opened.train, *options), ImageSplit(opened.validation, *options), opened.class_names)
