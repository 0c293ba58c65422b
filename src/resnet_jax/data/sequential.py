"""One pass over undecoded images, each of them once and in order: for evaluation, and for the mean image."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from resnet_jax.data.batch import Batch
from resnet_jax.data.decode import UnreadableImageError, decode, read_window, resample
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.tiles import ImageData
from resnet_jax.data.windows import center_window
from resnet_jax.distributed.machine import available_cores
from resnet_jax.errors import InputError

T = TypeVar("T")


def in_threads(function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """What a function makes of each index, in their order, computed ahead by threads on all cores."""
    cores = available_cores()
    threads, pending = ThreadPoolExecutor(cores), deque()
    try:
        for index in indices:
            pending.append(threads.submit(function, index))
            if len(pending) > 4 * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)  # nobody waits for those that have not begun


def in_order(
    source: ImageSource, read: Callable[[ImageData], Any], indices: Iterable[int]
) -> Iterator[tuple[int, int, Any]]:
    """(index, label, what `read` makes of the data) of these images; None for a damaged one."""

    def one(index: int) -> tuple[int, int, Any]:
        data, label, _ = source[index]
        try:
            return index, label, read(data)
        except UnreadableImageError:
            return index, label, None

    return in_threads(one, indices)


def center_view(pixels: np.ndarray, resize_size: int, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """The centre crop (section 3.4), see `windows.center_window`: (height, width, 3) uint8 -> (*size, 3)."""
    height, width = pixels.shape[:2]
    return resample(pixels, center_window(height, width, resize_size, size), size, interpolation)


def central_batches(
    source: ImageSource,
    image_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    batch_size: int,
    damaged: Callable[[Iterable[int]], None],
    host: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The central views of all images, each once, in batches of which this host has its rows: images (count,
    *image_shape) uint8, labels int32, weights float32.

    Rows past the last image, and those of damaged ones, have weight 0. Every host has as many batches.

    Args:
      source: the images of a split.
      image_shape, preprocessing: of the network, which says how images are resized.
      batch_size: of every batch over all hosts, the last one too.
      damaged: is given the indices of damaged images.
      host: this host's index, and how many there are; they hold consecutive rows.
    """
    count, (height, width) = batch_size // host[1], image_shape[:2]
    resize_size, interpolation = preprocessing.resized_to(image_shape), preprocessing.interpolation
    firsts = range(host[0] * count, len(source) + host[0] * count, batch_size)
    mine = [range(first, min(first + count, len(source))) for first in firsts]
    views = in_order(
        source,
        lambda data: center_view(decode(data), resize_size, (height, width), interpolation),
        itertools.chain(*mine),
    )
    for indices in mine:
        images = np.zeros((count, *image_shape), np.uint8)
        labels, weights = np.zeros(count, np.int32), np.zeros(count, np.float32)
        for row, (index, label, view) in enumerate(itertools.islice(views, len(indices))):
            if view is None:
                damaged([index])
            else:
                images[row], labels[row], weights[row] = view, label, 1
        yield Batch(images, labels, weights)


def mean_image(source: ImageSource, count: int, resize_size: int, image_size: int) -> np.ndarray:
    """The mean of the central views of `count` images, spread evenly: (image_size, image_size, 3) float32.

    The paper subtracts the mean image of its training set; over 10,000 images its standard error is below one grey
    level. Damaged images are left out; where all of them are, it is an InputError.
    """
    chosen = np.linspace(0, len(source) - 1, min(count, len(source)), dtype=np.int64).tolist()
    total, seen = np.zeros((image_size, image_size, 3), np.int64), 0
    choose = functools.partial(center_window, resize_size=resize_size, size=(image_size, image_size))
    for _, _, image in in_order(source, lambda data: read_window(data, choose, image_size), chosen):
        if image is not None:
            total += image
            seen += 1
    if not seen:
        raise InputError(f"all of {len(chosen)} images are damaged: is the data set whole?")
    return (total / seen).astype(np.float32)
