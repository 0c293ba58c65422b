"""Scores of many images: decoding ahead in threads, batches of one shape, and each score back at its image."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from resnet_jax import sharding
from resnet_jax.data import decode
from resnet_jax.data.encoded import Photographs
from resnet_jax.data.passes import in_threads
from resnet_jax.errors import InputError
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.protocols import Protocol
from resnet_jax.evaluation.trained import Trained

# What views may occupy while they wait for others of their shape.
_MOST_WAITING_BYTES = 2**30

# Batches that are on the devices at once: one is computed while the next one is put there.
_RUNNING = 2


@dataclass(frozen=True)
class Scored:
    """An image that is done.

    Attributes:
      index, name, label: of the image.
      scores: log-probabilities, (classes,) float32; None where the image is damaged.
      damage: what is wrong with it, or "".
    """

    index: int
    name: str
    label: int
    scores: np.ndarray | None
    damage: str = ""


def score_images(
    members: Sequence[Trained], images: Photographs, protocol: Protocol, batch_size: int
) -> Iterator[Scored]:
    """Scores every image exactly once, by the mean probability of its views and of the members.

    Args:
      members: networks with the same classes, on the same devices.
      images: what is scored; read and decoded in threads.
      protocol: see `protocols`.
      batch_size: images of the network's size at a time. Of views with more pixels there are fewer in a batch, and it
        is rounded up to a multiple of the devices. The scores do not depend on it, but for rounding.

    Yields:
      The images in the order in which they are done.

    Raises:
      InputError: an image that cannot be read from the disk, or scores that are not numbers.
    """
    groups = _group(members)
    mesh = members[0].mesh
    pixels = math.prod(members[0].card.image_shape[:2])

    def full(shape: tuple[int, ...]) -> int:
        views = max(batch_size * pixels // (protocols.passes(protocol) * math.prod(shape[:-1])), 1)
        return -(-min(views, len(images)) // mesh.size) * mesh.size

    def start(batch: _Batch) -> tuple[list[int], list[jax.Array]]:
        views = jax.device_put(batch.views, sharding.batch_sharded(mesh))
        return batch.indices, [protocols.scores(protocol, member, views) for member in groups[batch.group]]

    unfinished: dict[int, _Sum] = {}

    def finish(indices: list[int], results: list[jax.Array]) -> Iterator[Scored]:
        for rows in jax.device_get(results):
            for index, row in zip(indices, rows, strict=False):  # without those that fill the batch up
                if unfinished[index].add(row):
                    yield unfinished.pop(index).mean()

    waiting = _Waiting(full, mesh.size)
    running: deque[tuple[list[int], list[jax.Array]]] = deque()
    for read in _read_ahead(images, groups, protocol):
        if isinstance(read, Scored):
            yield read
            continue
        parts = sum(len(views) * len(members) for views, members in zip(read.views, groups, strict=True))
        unfinished[read.index] = _Sum(read.index, read.name, read.label, parts)
        for group, views in enumerate(read.views):
            for view in views:
                running.extend(start(batch) for batch in waiting.add(group, read.index, view))
                while len(running) > _RUNNING:
                    yield from finish(*running.popleft())
    for batch in waiting.rest():
        running.append(start(batch))
        if len(running) > _RUNNING:
            yield from finish(*running.popleft())
    while running:
        yield from finish(*running.popleft())


def _group(members: Sequence[Trained]) -> list[list[Trained]]:
    """Members that are shown the same views, together."""
    groups: dict[object, list[Trained]] = {}
    for member in members:
        key = (member.card.image_shape, member.preprocessing.shorter_side, member.preprocessing.interpolation)
        groups.setdefault(key, []).append(member)
    return list(groups.values())


@dataclass(frozen=True)
class _Read:
    """A decoded image; `views` holds those for each group of members."""

    index: int
    name: str
    label: int
    views: list[list[np.ndarray]]


def _read_ahead(
    images: Photographs, groups: Sequence[Sequence[Trained]], protocol: Protocol
) -> Iterator[_Read | Scored]:
    """Reads images in order, some ahead of the one that is asked for."""

    def read(index: int) -> _Read | Scored:
        data, label, name = images[index]
        try:
            pixels = decode.decode(data)
        except decode.UnreadableImageError as error:
            return Scored(index, name, label, None, str(error))
        views = [
            protocols.views(protocol, group[0].card.image_shape, group[0].preprocessing, pixels) for group in groups
        ]
        return _Read(index, name, label, views)

    return in_threads(read, range(len(images)))


class _Sum:
    """The scores of an image's views so far."""

    def __init__(self, index: int, name: str, label: int, parts: int):
        """`parts` is the number of scores that will be added."""
        self._image = (index, name, label)
        self._parts, self._left = parts, parts
        self._total: np.ndarray = np.float32(-np.inf)  # pyright: ignore[reportAttributeAccessIssue]

    def add(self, row: np.ndarray) -> bool:
        """Adds the probabilities of a view; tells whether it was the last one.

        Raises:
          InputError: they are not numbers.
        """
        if np.isnan(row).any():
            raise InputError(
                f"the scores of {self._image[1]} are not numbers: the network's weights or their model.dtype overflow"
            )
        self._total = np.logaddexp(self._total, row)
        self._left -= 1
        return self._left == 0

    def mean(self) -> Scored:
        return Scored(*self._image, self._total - np.log(self._parts).astype(np.float32))


class _Batch(NamedTuple):
    """Views of one shape, (rows, …) uint8, for a group of members; the first rows are of the images `indices`."""

    group: int
    indices: list[int]
    views: np.ndarray


class _Waiting:
    """Views that wait for others of their shape."""

    def __init__(self, full: Callable[[tuple[int, ...]], int], devices: int):
        """`full` is the number of rows of a whole batch of views of a shape, a multiple of the devices."""
        self._full, self._devices = full, devices
        self._views: dict[tuple[int, tuple[int, ...]], list[tuple[int, np.ndarray]]] = {}
        self._bytes = 0
        self._compiled = set()

    def add(self, group: int, index: int, view: np.ndarray) -> Iterator[_Batch]:
        """Takes a view in; gives a batch out when one is full, or when too much waits."""
        key = (group, view.shape)
        self._views.setdefault(key, []).append((index, view))
        self._bytes += view.nbytes
        if len(self._views[key]) == self._full(view.shape):
            yield self._take(key)
        elif self._bytes > _MOST_WAITING_BYTES:
            yield self._take(max(self._views, key=lambda key: len(self._views[key]) * math.prod(key[1])))

    def rest(self) -> Iterator[_Batch]:
        """Gives out what is left, in batches that are filled up."""
        while self._views:
            yield self._take(next(iter(self._views)))

    def _take(self, key: tuple[int, tuple[int, ...]]) -> _Batch:
        group, shape = key
        taken = self._views.pop(key)
        self._bytes -= sum(view.nbytes for _, view in taken)
        rows = self._full(shape)
        if key not in self._compiled:
            # No larger than it must be, and of few sizes. Where a whole batch has been compiled, it is used instead.
            least = -(-len(taken) // self._devices)
            rows = min(rows, self._devices << (least - 1).bit_length())
            if rows == self._full(shape):
                self._compiled.add(key)
        views = np.zeros((rows, *shape), np.uint8)
        views[: len(taken)] = [view for _, view in taken]
        return _Batch(group, [index for index, _ in taken], views)
