"""One pass over photographs, each of them once and in order: for evaluation, and for the mean image."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from resnet_jax.data.batch import Batch
from resnet_jax.data.decode import UnreadableImageError, decode, read_window, resample
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.tiles import ImageData
from resnet_jax.data.windows import center_window
from resnet_jax.errors import InputError

T = TypeVar("T")


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    photographs: ImageSource, read: Callable[[ImageData], Any], indices: Iterable[int]
) -> Iterator[tuple[int, int, Any]]:
    """(index, label, what `read` makes of the data) of each photograph, read ahead by threads; None for a damaged one.

    Args:
      photographs: where they are.
      read: may raise `UnreadableImageError`.
      indices: of those that are wanted.
    """

    def one(index: int) -> tuple[int, int, Any]:
        photograph = photographs[index]
        try:
            return index, photograph.label, read(photograph.data)
        except UnreadableImageError:
            return index, photograph.label, None

    return in_threads(one, indices)


def in_threads(function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """What a function makes of each index, in their order, computed ahead by threads on all cores."""
    cores = available_cores()
    with ThreadPoolExecutor(cores) as threads:
        pending: deque[Future[T]] = deque()
        try:
            for index in indices:
                pending.append(threads.submit(function, index))
                if len(pending) > 4 * cores:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # nobody waits for the others
            for future in pending:
                future.cancel()


def center_view(pixels: np.ndarray, resize_size: int, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """The centre crop (section 3.4), see `windows.center_window`: (height, width, 3) uint8 -> (*size, 3)."""
    height, width = pixels.shape[:2]
    return resample(pixels, center_window(height, width, resize_size, size), size, interpolation)


def central_batches(
    photographs: ImageSource,
    image_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    batch_size: int,
    damaged: Callable[[Iterable[int]], None],
    host: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The central views of all photographs, each once, in batches of which this host has its part: images (count,
    *image_shape) uint8, labels int32, weights float32.

    Places past the last photograph, and those of damaged ones, have weight 0. Every host has as many batches.

    Args:
      photographs: of a split.
      image_shape: (height, width, 3) of the network's images.
      preprocessing: of the network, which says how photographs are resized.
      batch_size: of every batch over all hosts, the last one too.
      damaged: is told the indices of damaged photographs.
      host: this host's index, and how many there are; they hold consecutive parts.
    """
    count, size, resize_size = batch_size // host[1], image_shape[:2], preprocessing.resized_to(image_shape)
    firsts = range(host[0] * count, len(photographs) + host[0] * count, batch_size)
    mine = [range(first, min(first + count, len(photographs))) for first in firsts]
    views = in_order(
        photographs,
        lambda data: center_view(decode(data), resize_size, (size[0], size[1]), preprocessing.interpolation),
        itertools.chain.from_iterable(mine),
    )
    for indices in mine:
        images = np.zeros((count, *image_shape), np.uint8)
        labels, weights = np.zeros(count, np.int32), np.zeros(count, np.float32)
        for place, (index, label, view) in enumerate(itertools.islice(views, len(indices))):
            if view is None:
                damaged([index])
            else:
                images[place], labels[place], weights[place] = view, label, 1
        yield Batch(images, labels, weights)


def mean_image(photographs: ImageSource, count: int, resize_size: int, side: int) -> np.ndarray:
    """The mean of the central views of `count` photographs, spread evenly over the data set: (side, side, 3) float32.

    The paper subtracts the mean image of its training set; over 10,000 photographs its standard error is below one
    grey level. Damaged photographs are left out.

    Raises:
      InputError: all of them are damaged.
    """
    chosen = np.linspace(0, len(photographs) - 1, min(count, len(photographs)), dtype=np.int64).tolist()
    total, seen = np.zeros((side, side, 3), np.int64), 0

    def choose(height: int, width: int):
        return center_window(height, width, resize_size, (side, side))

    for _, _, image in in_order(photographs, lambda data: read_window(data, choose, side), chosen):
        if image is not None:
            total += image
            seen += 1
    if not seen:
        raise InputError(f"all of {len(chosen)} photographs are damaged: is the data set whole?")
    return (total / seen).astype(np.float32)
