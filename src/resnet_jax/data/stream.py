"""Training batches of undecoded images, each a pure function of (seed, step): Grain on the host.

The order of the operations is the whole point. Shuffling, repeating and drawing come before the hosts' parts, and
batching comes before workers, so that neither hosts nor workers change what a batch holds; and as element k of the
batched data set is step k, going on from a step needs nothing but the step.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from resnet_jax.data.decode import UnreadableImageError, read_window, use_one_thread
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.image_files import quiet_pillow
from resnet_jax.data.sequential import available_cores
from resnet_jax.data.shared_memory import check_room, ran_out
from resnet_jax.data.tiles import ImageData
from resnet_jax.data.windows import Box, area_window, scale_window
from resnet_jax.errors import InputError, PeerLostError

# How windows are drawn: the common way, and the paper's (section 3.4); see `data.windows`.
CROPS = ("random_resized_crop", "random_scale")


@dataclass(frozen=True)
class Cropping:
    """How a training window is drawn.

    Attributes:
      crop: one of `CROPS`.
      scales: least and greatest shorter side, for "random_scale".
      image_size: the side of the window, in pixels.
    """

    crop: str
    scales: tuple[int, int]
    image_size: int

    def __call__(self, data: ImageData, random: np.random.Generator) -> np.ndarray:
        """An image file's bytes -> a window of it, (image_size, image_size, 3) uint8."""

        def choose(height: int, width: int) -> Box:
            if self.crop == "random_scale":
                return scale_window(height, width, random, self.scales, self.image_size)
            return area_window(height, width, random)

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


# A data set with so many damaged images in a row is no data set.
_MOST_IN_A_ROW = 20


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
    """Reads the image of an index and cuts its window; a damaged one is replaced by the next that is whole."""

    source: ImageSource
    cropping: Cropping

    def random_map(self, element: int, rng: np.random.Generator) -> HostBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, damaged = int(element), -1
        for turn in range(_MOST_IN_A_ROW):
            data, label, _ = self.source[(first + turn) % len(self.source)]
            try:
                window = self.cropping(data, rng)
            except UnreadableImageError:
                damaged = first
                continue
            return HostBatch(window, np.int32(label), np.int64(damaged))  # pyright: ignore[reportArgumentType]
        name = self.source[first].name
        raise InputError(f"{_MOST_IN_A_ROW} images from {name} on are damaged: is the data set whole?")


def train_batches(
    source: ImageSource,
    cropping: Cropping,
    *,
    seed: int,
    batch_size: int,
    start: int,
    num_workers: int,
    host: tuple[int, int] = (0, 1),
) -> "TrainBatches":
    """The batches of the steps from `start` on, without end; they depend on neither `num_workers` nor the hosts.

    Every epoch shows each image once, in an order of its own; a batch may straddle two epochs.

    Args:
      source, cropping: what to show, and how.
      seed: of the run.
      batch_size: over all hosts, which hold consecutive rows.
      start: the step of the first batch.
      num_workers: processes that decode; 0 decodes in threads of this one, as many as it has cores.
      host: this host's index, and how many there are.

    Raises:
      InputError: what the workers keep in shared memory has no room there.
    """
    index, count = host
    # Of each image its window, its label and the index of a damaged one.
    check_room(batch_size // count * (3 * cropping.image_size**2 + 12), num_workers)
    elements: Any = _order(seed, len(source)).random_map(_Crop(source, cropping))
    if count > 1:
        elements = _HostRows(elements, batch_size, index, count)
    return TrainBatches(elements.batch(batch_size // count), start, num_workers)


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Which of `count` images the batch of a step shows: (batch_size,); damaged ones are among them."""
    order = _order(seed, count)
    return np.array([order[position] for position in range(step * batch_size, (step + 1) * batch_size)])


def _order(seed: int, count: int) -> Any:
    # As good as without end. The length of Grain's own endless data set is no whole number any more once it is divided
    # into batches: Grain divides as floats, which are exact up to here.
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat(2**53 // count)


class TrainBatches(Iterator[HostBatch]):
    """What `train_batches` makes. Its workers start with the first batch, and end with `close` or with this process.

    Asking for a batch raises PeerLostError when a worker was killed, and InputError when it found no room in shared
    memory, or when too many images in a row are damaged.

    Attributes:
      step: of the next batch.
    """

    def __init__(self, batches: grain.MapDataset, start: int, num_workers: int):
        self.step, self._batches, self._workers, self._iterator = start, batches, num_workers, None

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
                f"config.stream.num_workers is {self._workers})"
            ) from error
        self.step += 1
        # Copied, memory that workers share is free again whatever becomes of the batch.
        return HostBatch(*map(np.array, batch)) if self._workers else batch

    def _begin(self) -> HostBatch:
        # Processes inherit which signals are blocked: Ctrl-C reaches this one alone, when the batch is there. Starting
        # the tracker of shared memory would unblock it.
        if self._workers:
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


class _HostRows(grain.MapDataset):
    """Of each batch the rows that are one host's: side by side, hosts have the batch that a single one would have."""

    def __init__(self, elements: grain.MapDataset, batch_size: int, index: int, count: int):
        super().__init__(elements)
        self._batch_size, self._rows, self._first = batch_size, batch_size // count, index * (batch_size // count)

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._rows

    def __getitem__(self, index: Any) -> Any:
        batch, row = divmod(index, self._rows)
        return self._parent[batch * self._batch_size + self._first + row]


def _start_worker(worker: int, workers: int) -> None:
    del worker, workers
    # Whatever a worker imports, the accelerators are the main process's.
    os.environ["JAX_PLATFORMS"] = "cpu"
    quiet_pillow()
    use_one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose training was killed would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@dataclass(frozen=True)
class DamageReport:
    """Names each damaged image once, and stops a run that meets too many.

    Attributes:
      source: the images that they are among.
      most: the share of all images that may be damaged.
      log: is given a line about each.
      done: what becomes of a damaged one, for the line.
      found: indices of the damaged images met so far.
    """

    source: ImageSource
    most: float
    log: Callable[[str], None]
    done: str = "the next image takes its place"
    found: set[int] = field(default_factory=set)

    def __call__(self, damaged: Iterable[int]) -> None:
        """Notes the indices of damaged images; those below 0 stand for none.

        Raises:
          InputError: there are more than the share that is allowed.
        """
        for index in map(int, damaged):
            if index < 0 or index in self.found:
                continue
            self.found.add(index)
            name, count = self.source[index].name, len(self.source)
            self.log(f"{name} is damaged: {self.done}")
            if len(self.found) > self.most * count:
                raise InputError(
                    f"{len(self.found)} of {count} images are damaged, {name} the last so far, and "
                    f"config.stream.max_corrupt_fraction={self.most:g} allows no more: mend or remove them"
                )
