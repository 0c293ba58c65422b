"""Scores of many images: decoding ahead in threads, batches of one shape, and each score back at its image."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.data import decode
from resnet_jax.data.encoded import EncodedImage, ImageSource
from resnet_jax.data.sequential import in_threads
from resnet_jax.data.small import Split
from resnet_jax.distributed.mesh import batch_sharded, make_mesh, replicated
from resnet_jax.errors import InputError
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.classifier import Classifier, check_classifier
from resnet_jax.evaluation.protocols import Protocol

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


def shown(
    split: Split | ImageSource, classifiers: Sequence[Classifier], protocol: Protocol, batch_size: int
) -> tuple[ImageSource, Protocol]:
    """The images of a split, and how they are shown: arrays as they are.

    Raises:
      InputError: these are no classifiers, or no split, or the images do not fit to the networks or the protocol.
    """
    for each in classifiers:
        check_classifier(each, "a split")
    images: Any = split
    if isinstance(split, Split):
        if protocol.name != "center":
            raise InputError(
                f"the protocol {protocol.name} is for image files, but these arrays are scored as they are: use center"
            )
        if split.images.dtype != np.uint8:
            raise InputError(f"the images are {split.images.dtype}, but they must be uint8, from 0 to 255")
        shape = split.images.shape[1:]
        if other := {classifier.image_shape for classifier in classifiers} - {shape}:
            theirs, ours = (" x ".join(map(str, each)) for each in (min(other), shape))
            raise InputError(
                f"the network is for images of {theirs}, but those of the data are {ours}, and are shown as they are: "
                "give the data set that it was trained on"
            )
        protocol = Protocol("original")
        pairs = zip(np.asarray(split.images), split.labels.tolist(), strict=True)
        images = [EncodedImage(pixels, label, str(i)) for i, (pixels, label) in enumerate(pairs)]
    if not hasattr(images, "__getitem__") or not len(images) or not isinstance(images[0], EncodedImage):
        raise InputError(
            f"{type(split).__name__} is no split that can be evaluated: give data.image_folder(…).validation, "
            "data.load(…).test or data.Split(images, labels)"
        )
    if batch_size < 1:
        raise InputError(f"the evaluation's batch size is {batch_size}, but it must be at least 1")
    return images, protocol


def score_images(
    classifiers: Sequence[Classifier],
    images: ImageSource,
    protocol: Protocol,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Iterator[Scored]:
    """Scores every image exactly once, by the mean probability of its views and of the classifiers.

    Arguments, order and errors are those of `computed`.
    """
    for image, rows in computed(protocols.scores, classifiers, images, protocol, batch_size, mesh):
        mean = np.logaddexp.reduce(rows) - np.float32(np.log(len(rows))) if rows else None
        yield replace(image, scores=mean)


def computed(
    function: Callable[[Protocol, Classifier, Any], jax.Array],
    classifiers: Sequence[Classifier],
    images: ImageSource,
    protocol: Protocol,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Iterator[tuple[Scored, list[np.ndarray]]]:
    """What a function computes of every image, exactly once.

    Args:
      function: compiled, (protocol, classifier, views) -> rows, such as `protocols.scores`.
      classifiers: with the same classes.
      images: what is shown; read and decoded in threads.
      protocol: see `protocols`.
      batch_size: images of the network's size at a time. Of views with more pixels there are fewer in a batch, and it
        is rounded up to a multiple of the devices. The rows do not depend on it, but for rounding.
      mesh: the devices, by default all of them.

    Yields:
      The images in the order in which they are done, each with a row of every view and classifier; a damaged image
      has none.

    Raises:
      InputError: an image that cannot be read from the disk, or rows that are not numbers.
    """
    mesh = mesh or make_mesh()
    groups = _group(jax.device_put(list(classifiers), replicated(mesh)))
    pixels = math.prod(classifiers[0].image_shape[:2])
    rows_of_each = len(classifiers) * (len(protocol.scales) if protocol.name == "dense" else 1)

    def full(shape: tuple[int, ...]) -> int:
        views = max(batch_size * pixels // (protocols.passes(protocol) * math.prod(shape[:-1])), 1)
        return min(-(-views // mesh.size), _few(-(-len(images) // mesh.size))) * mesh.size

    def read(index: int) -> tuple[Scored, list[list[np.ndarray]]]:
        data, label, name = images[index]
        try:
            decoded = decode.decode(data)
        except decode.UnreadableImageError as error:
            return Scored(index, name, label, None, str(error)), []
        views = [protocols.views(protocol, group[0], decoded) for group in groups]
        return Scored(index, name, label, None), views

    waiting = _Waiting(full, mesh.size)
    unfinished: dict[int, tuple[Scored, list[np.ndarray]]] = {}
    running: deque[tuple[list[int], list[jax.Array]]] = deque()

    def start(batch: _Batch) -> None:
        views = jax.device_put(batch.views, batch_sharded(mesh))
        running.append((batch.indices, [function(protocol, each, views) for each in groups[batch.group]]))

    def finish(left: int) -> Iterator[tuple[Scored, list[np.ndarray]]]:
        while len(running) > left:
            indices, results = running.popleft()
            for scores in jax.device_get(results):
                for index, row in zip(indices, scores, strict=False):  # without those that fill the batch up
                    image, rows = unfinished[index]
                    if np.isnan(row).any():
                        raise InputError(
                            f"the scores of {image.name} are not numbers: the network's weights or their model.dtype "
                            "overflow"
                        )
                    rows.append(row)
                    if len(rows) == rows_of_each:
                        yield unfinished.pop(index)

    for image, shown in in_threads(read, range(len(images))):
        if not shown:
            yield image, []
            continue
        unfinished[image.index] = image, []
        for group, views in enumerate(shown):
            for view in views:
                for batch in waiting.add(group, image.index, view):
                    start(batch)
                    yield from finish(_RUNNING)
    for batch in waiting.rest():
        start(batch)
        yield from finish(_RUNNING)
    yield from finish(0)


def _few(rows: int) -> int:
    """The least of few numbers that is no smaller: each number of rows is a program that has to be compiled, and a
    notebook shows a network 5 images, then 7.
    """
    return 1 << (rows - 1).bit_length() if rows < 8 else -(-rows // 8) * 8


def _group(members: Sequence[Classifier]) -> list[list[Classifier]]:
    """Members that are shown the same views, together."""
    groups: dict[object, list[Classifier]] = {}
    for member in members:
        key = (member.image_shape, member.preprocessing.resize_size, member.preprocessing.interpolation)
        groups.setdefault(key, []).append(member)
    return list(groups.values())


class _Batch(NamedTuple):
    """Views of one shape, (rows, …) uint8, for a group of members; the first rows are of the images `indices`."""

    group: int
    indices: list[int]
    views: np.ndarray


class _Waiting:
    """Views that wait for others of their shape; `full` is the number of rows of a whole batch of a shape."""

    def __init__(self, full: Callable[[tuple[int, ...]], int], devices: int):
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
