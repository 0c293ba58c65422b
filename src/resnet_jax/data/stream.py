"""Training batches of undecoded images, each a pure function of (seed, step): Grain on the host.

Shuffling, repeating and drawing come before the hosts' parts, and batching before workers, so that neither hosts nor
workers change what a batch holds; and as element k of the batched data set is step k, a run goes on from any step.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from absl import flags

from resnet_jax.data.decode import UnreadableImageError, read_window
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.quiet import quiet_pillow
from resnet_jax.data.shared_memory import check_room, ran_out
from resnet_jax.data.tiles import ImageData
from resnet_jax.data.windows import area_window, scale_window
from resnet_jax.distributed.machine import available_cores
from resnet_jax.errors import InputError, PeerLostError

# How windows are drawn: the common way, and the paper's (section 3.4); see `data.windows`.
CROPS = ("random_resized_crop", "random_scale")


@dataclass(frozen=True)
class Cropping:
    """How a training window is drawn: `image_size` pixels wide and high, by one of `CROPS`; `scales` are the least and
    the greatest shorter side for "random_scale".
    """

    crop: str
    scales: tuple[int, int]
    image_size: int

    def __call__(self, data: ImageData, random: np.random.Generator) -> np.ndarray:
        """An image -> a window of it, (image_size, image_size, 3) uint8."""
        choose = functools.partial(area_window, random=random)
        if self.crop == "random_scale":
            choose = functools.partial(scale_window, random=random, scales=self.scales, side=self.image_size)
        return read_window(data, choose, self.image_size)


class HostBatch(NamedTuple):
    """This host's part of a batch, in NumPy arrays.

    Attributes:
      images: (count, image_size, image_size, 3) uint8.
      labels: (count,) int32.
      damaged: (count,) int64: the index of the damaged image that another one stands for, or -1.
    """

    images: np.ndarray
    labels: np.ndarray
    damaged: np.ndarray


_MOST_DAMAGED_IN_A_ROW = 20


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
    """Reads the image of an index and cuts its window; a damaged one is replaced by the next that is whole."""

    source: ImageSource
    cropping: Cropping

    def random_map(self, element: int, rng: np.random.Generator) -> HostBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, damaged = int(element), -1
        for turn in range(_MOST_DAMAGED_IN_A_ROW):
            data, label, _ = self.source[(first + turn) % len(self.source)]
            try:
                window = self.cropping(data, rng)
            except UnreadableImageError:
                damaged = first
                continue
            return HostBatch(window, np.int32(label), np.int64(damaged))  # pyright: ignore[reportArgumentType]
        name = self.source[first].name
        raise InputError(f"{_MOST_DAMAGED_IN_A_ROW} images from {name} on are damaged: is the data set whole?")


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Which of `count` images the batch of a step shows: (batch_size,); damaged ones are among them."""
    order = _order(seed, count)
    return np.array([order[position] for position in range(step * batch_size, (step + 1) * batch_size)])


def _order(seed: int, count: int) -> Any:
    # As good as without end: Grain divides lengths into batches as floats, which are exact up to here.
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat(2**53 // count)


class TrainBatches(Iterator[HostBatch]):
    """The batches of the steps from `start` on, without end; they depend on neither `num_workers` nor the hosts.

    Every epoch shows each image once, in an order of its own; a batch may straddle two epochs. Workers start with the
    first batch, and end with `close` or with this process.

    Args:
      source, cropping: what to show, and how.
      seed: of the run.
      batch_size: over all hosts, which hold consecutive rows.
      start: the step of the first batch; `step` is that of the next one.
      num_workers: processes that decode; 0 decodes in threads of this one, as many as it has cores.
      host: this host's index, and how many there are.

    Raises:
      InputError: what the workers keep in shared memory has no room there. Asking for a batch: they found none, or too
        many images in a row are damaged.
      PeerLostError: asking for a batch, when a worker was killed.
    """

    def __init__(
        self,
        source: ImageSource,
        cropping: Cropping,
        *,
        seed: int,
        batch_size: int,
        start: int,
        num_workers: int,
        host: tuple[int, int] = (0, 1),
    ):
        index, count = host
        rows = batch_size // count
        # Of each image its window, its label and the index of a damaged one.
        check_room(rows * (3 * cropping.image_size**2 + 12), num_workers)
        elements: Any = _order(seed, len(source)).random_map(_Crop(source, cropping))
        if count > 1:
            mine = functools.partial(_element, elements, batch_size, rows, index * rows)
            elements = grain.MapDataset.range(len(elements) // batch_size * rows).map(mine)
        self._batches: Any = elements.batch(rows)
        self.step, self._workers, self._iterator = start, num_workers, None

    def go_to(self, step: int) -> None:
        """Makes the batch of this step the next one. Where it is that already, nothing is read anew."""
        if step != self.step:
            self.close()
            self.step = step

    def __next__(self) -> HostBatch:
        try:
            batch = self._begin() if self._iterator is None else next(self._iterator)
        except BaseException as error:
            self.close()  # asked once more, it begins with the same batch
            if not isinstance(error, RuntimeError) or "terminated unexpectedly" not in str(error):
                raise
            if why := ran_out(str(error)):
                raise InputError(why) from error
            raise PeerLostError(
                "it decoded images and was killed, perhaps for want of memory (fewer of them want less: "
                f"num_workers is {self._workers})"
            ) from error
        self.step += 1
        # Copied, memory that workers share is free again whatever becomes of the batch.
        return HostBatch(*map(np.array, batch)) if self._workers else batch

    def _begin(self) -> HostBatch:
        # Processes inherit which signals are blocked: Ctrl-C reaches this one alone, when the batch is there.
        if self._workers:  # to start the tracker later would unblock the signal
            resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _starting_workers():
                self._iterator = iter(self._stream())
                return next(self._iterator)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _stream(self) -> grain.IterDataset:
        """The batches from the next one on, read ahead."""
        threads = 1 if self._workers else available_cores()
        # Each element is a whole batch: Grain's own default would hold 500 of them.
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        stream = self._batches[self.step :].to_iter_dataset(options)
        if not self._workers:
            return stream
        processes = grain.multiprocessing.MultiprocessingOptions(self._workers, per_worker_buffer_size=1)
        return stream.mp_prefetch(processes, worker_init_fn=_start_worker)

    def close(self) -> None:
        """Ends the workers."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None  # Grain's iterators warn when they outlive the interpreter's modules


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
    """Grain marks absl's flags as parsed and settles how processes start: both are afterwards as they were."""
    parsed, method = flags.FLAGS.is_parsed(), multiprocessing.get_start_method(allow_none=True)
    flags.FLAGS.mark_as_parsed()
    try:
        yield
    finally:
        if not parsed:
            flags.FLAGS.__dict__["__flags_parsed"] = False
        if method is None:
            multiprocessing.set_start_method(None, force=True)


def _element(elements: Any, batch_size: int, rows: int, first: int, index: int) -> Any:
    """Of each batch the rows that are one host's: side by side, hosts have the batch that a single one would have."""
    batch, row = divmod(index, rows)
    return elements[batch * batch_size + first + row]


def _start_worker(*_: int) -> None:
    # Whatever a worker imports, the accelerators are the main process's.
    os.environ["JAX_PLATFORMS"] = "cpu"
    quiet_pillow()
    cv2.setNumThreads(1)  # there are as many workers as cores
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose training was killed would wait for it forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


@dataclass(frozen=True)
class DamageReport:
    """Names each damaged image of `source` once, and stops a run that meets too many.

    Attributes:
      most: the share of all images that may be damaged; one may, unless it is 0.
      log: is given a line about each, and what is `done` about it.
      found: indices of the damaged images met so far.
    """

    source: ImageSource
    most: float
    log: Callable[[str], None]
    done: str = "the next image takes its place"
    found: set[int] = field(default_factory=set)

    def __call__(self, damaged: Iterable[int]) -> None:
        """Notes the indices of damaged images, where -1 is none; an InputError when there are too many."""
        for index in map(int, damaged):
            if index < 0 or index in self.found:
                continue
            self.found.add(index)
            name, count = self.source[index].name, len(self.source)
            self.log(f"{name} is damaged: {self.done}")
            # One damaged file is no reason to do without a small folder.
            if len(self.found) > max(self.most * count, self.most > 0):
                raise InputError(
                    f"{len(self.found)} of {count} images are damaged, {name} the last so far, and "
                    f"max_corrupt_fraction={self.most:g} allows no more: mend or remove them, or allow a larger one"
                )
