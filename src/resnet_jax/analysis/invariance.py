"""What a network answers when its images are moved; for those that are turned or scaled see `transforms`.

Two words. A map is *equivariant* to shifts if the map of a shifted image is the shifted map, and an answer *invariant*
if it stays as it is. A convolution of stride s is equivariant to shifts by multiples of s, if it pads circularly and
the shift is circular, too; global average pooling makes invariant what is equivariant.

Consistency is the share of pairs of views that get the same answer. It depends on the protocol, so each has its source,
and on the accuracy, since an image that is answered well is answered so twice: print both.

Images are moved before they are pre-processed. A mean image (`data.per_pixel_mean`) does not move with them, and
`augment.pad_crop_mirror` moves what is left of an image without it: networks that were trained so are measured on that,
by a classifier whose pre-processing subtracts zero.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from resnet_jax.analysis.inputs import check_finite, check_images, check_stages
from resnet_jax.errors import InputError, check_whole
from resnet_jax.evaluation.classifier import Classifier

Images = Num[Array | np.ndarray, "count height width channels"]
Labels = Int[Array | np.ndarray, " count"] | None


class Consistency(NamedTuple):
    """How alike a network answers to two views of each image.

    Attributes:
      consistency: the share of pairs whose most probable class is the same.
      accuracy: the share of first views whose most probable class is right; None without labels.
      change: how much the probability of the first view's answer differs in the second view, on average.
      passes: the consistency of each pass, or of each pair of offsets.
    """

    consistency: float
    accuracy: float | None
    change: float
    passes: tuple[float, ...]


def crop_consistency(
    classifier: Classifier,
    images: Images,
    labels: Labels = None,
    *,
    offsets: int = 32,
    group: int = 8,
    passes: int = 5,
    seed: int = 0,
    batch_size: int = 64,
) -> Consistency:
    """Zhang's consistency (1904.11486): two random windows of the network's size in larger images.

    There, images are resized to a shorter side of 256 and their centre 256 x 256 is taken; of 224 x 224 windows the
    offsets in height and width are drawn from 0 … 31, one pair of windows for each 8 images, in 5 passes over the
    validation set. CIFAR's images are padded by 4 pixels instead (`np.pad`), with 9 offsets.

    Args:
      classifier: a network.
      images: 0 to 255 as the classifier is called with, larger than the network's own by at least `offsets` - 1.
      labels: the true classes, for the accuracy.
      offsets: how many there are along each axis.
      group: images that are moved alike.
      passes: over all images.
      seed: of the draws.
      batch_size: images at a time; the result does not depend on it, but for rounding.

    Raises:
      InputError: the images are too small, labels are not one class of each, logits are not finite, or a number makes
        no sense.
    """
    check_whole(offsets=offsets)
    _check_size(classifier, images, labels, offsets - 1)
    height, width = classifier.image_shape[:2]

    def window(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
        y, x = offset
        return image[y : y + height, x : x + width]

    drawn = _draws(seed, passes, len(images), group, 0, offsets)
    return _consistency(classifier, images, labels, window, drawn, batch_size)


def circular_consistency(
    classifier: Classifier,
    images: Images,
    labels: Labels = None,
    *,
    shift: int = 3,
    group: int = 128,
    passes: int = 5,
    seed: int = 0,
    batch_size: int = 64,
) -> Consistency:
    """Consistency under circular shifts of -shift … shift - 1 pixels, as truly_shift_invariant_cnns (2011.14214)
    measures it on CIFAR: nothing leaves the image. Arguments are as of `crop_consistency`; images have the network's
    size.
    """
    check_whole(shift=shift)
    _check_size(classifier, images, labels, 0)
    drawn = _draws(seed, passes, len(images), group, -shift, shift)

    def rolled(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
        return np.roll(image, offset.tolist(), (0, 1))

    return _consistency(classifier, images, labels, rolled, drawn, batch_size)


def one_pixel_consistency(
    classifier: Classifier, images: Images, labels: Labels = None, *, batch_size: int = 64
) -> Consistency:
    """Azulay's and Weiss's one-pixel shift (1805.12177): windows at 8 offsets around the centre, each against the one a
    pixel further down and right. Their P(top-1 change) is 1 - consistency, their mean absolute change is `change`.

    Args:
      classifier: a network.
      images: larger than the network's own by 9 pixels or more; there, random windows of 234 for 224.
      labels: the true classes, for the accuracy.
      batch_size: images at a time.

    Raises:
      InputError: the images are too small, labels are not one class of each, or logits are not finite.
    """
    _check_size(classifier, images, labels, 9)
    height, width = classifier.image_shape[:2]
    start = np.array([(images.shape[1] - height - 1) // 2, (images.shape[2] - width - 1) // 2])

    def window(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
        y, x = start + offset
        return image[y : y + height, x : x + width]

    pairs = (np.broadcast_to([[c, c], [c + 1, c + 1]], (len(images), 2, 2)) for c in range(-4, 4))
    return _consistency(classifier, images, labels, window, pairs, batch_size)


def transform_consistency(
    classifier: Classifier,
    images: Images,
    transform: Callable[[np.ndarray], np.ndarray],
    labels: Labels = None,
    *,
    batch_size: int = 64,
) -> Consistency:
    """Consistency between images and what a transform makes of them, such as `partial(rotate, degrees=10)`.

    Args:
      classifier: a network.
      images: (count, height, width, channels), 0 to 255 as the classifier is called with.
      transform: from such images to others of the same number.
      labels: the true classes, for the accuracy on the images as they are.
      batch_size: images at a time.

    Raises:
      InputError: the transform returns another number of images, labels are not one class of each, or logits are not
        finite.
    """
    check_images(classifier, images, labels)
    given = np.asarray(images)

    def views(places: range) -> np.ndarray:
        return given[places.start : places.stop]

    both = (views, lambda places: transform(views(places)))
    first, second = (_probabilities(classifier, each, len(given), batch_size) for each in both)
    return _summary([_compare(first, second, labels)])


def equivariance_errors(
    classifier: Classifier, images: Num[Array | np.ndarray, "batch height width channels"], shift: tuple[int, int]
) -> dict[str, float]:
    """How far the network's maps are from shifting as its images do, when these are shifted circularly.

    The images are pre-processed before they are shifted: the mean of each pixel does not shift with them. A map has a
    shifted form where its stride divides the sides of the images and the shift; else it is left out.

    Args:
      classifier: a network with `stages`, such as a `ResNet`.
      images: RGB or grey, 0 to 255, uint8 or float.
      shift: pixels down and to the right.

    Returns:
      the largest difference as a share of the map's largest value, by the names of the maps ("stem", "stage1", …) and
      for "logits", which should stay as they are. Under circular padding it is 0 but for rounding; that of the
      logits is so where the last map is not left out.

    Raises:
      InputError: the network has no stages, there is no image, or the shift is not of whole pixels.
    """
    check_images(classifier, images)
    check_stages(classifier.model)
    if np.shape(shift) != (2,) or np.asarray(shift).dtype.kind not in "iu":
        raise InputError(f"shift is {shift!r}, but it must be two whole numbers of pixels: down, and to the right")
    shifts = jnp.array(shift, jnp.int32)
    maps, moved = _maps(classifier.model, classifier.variables, classifier.preprocessing(images), shifts)
    errors, whole = {}, True
    before = sides = np.array(images.shape[1:3])
    # Compiled functions sort the names.
    for name in sorted(maps, key=lambda name: (name == "logits", name != "stem", name)):
        map_, by = maps[name], (0, 0)
        if name != "logits":
            own = np.array(map_.shape[1:3])
            # Of 9 pixels 5 and then 3 are left: no shift by 3 is one of theirs.
            whole, before = whole and not (before % own).any(), own
            if not whole or (shift % (sides // own)).any():
                continue
            by = tuple(shift // (sides // own))
        expected = np.roll(map_, by, (1, 2)) if any(by) else np.asarray(map_)
        errors[name] = float(np.abs(moved[name] - expected).max() / max(np.abs(expected).max(), 1e-30))
    return errors


@partial(jax.jit, static_argnums=0)
def _maps(model: nn.Module, variables: Any, images: jax.Array, shift: jax.Array) -> Any:
    def compute(images: jax.Array) -> Any:
        maps: Any = model.apply(variables, images, train=False, method="stages")
        return {**maps, "logits": model.apply(variables, images, train=False)}

    return compute(images), compute(jnp.roll(images, shift, (1, 2)))


def _check_size(classifier: Classifier, images: Any, labels: Any, margin: int) -> None:
    check_images(classifier, images, labels)
    height, width = (side + margin for side in classifier.image_shape[:2])
    if images.shape[1] < height or images.shape[2] < width:
        given = " x ".join(map(str, images.shape[1:3]))
        raise InputError(f"the images are {given}, but this protocol needs at least {height} x {width} pixels of them")
    if not margin and images.shape[1:3] != (height, width):
        raise InputError(f"the images must have the network's own size, {height} x {width}")


def _draws(seed: int, passes: int, images: int, group: int, low: int, high: int) -> Iterator[np.ndarray]:
    """For each pass two offsets of each image, (images, 2 views, 2 axes)."""
    check_whole(group=group, passes=passes)
    check_whole(0, seed=seed)
    generator = np.random.default_rng(seed)
    for _ in range(passes):
        drawn = generator.integers(low, high, (-(-images // group), 2, 2))
        yield np.repeat(drawn, group, axis=0)[:images]


def _consistency(
    classifier: Classifier,
    images: Any,
    labels: Any,
    view: Callable[[np.ndarray, np.ndarray], np.ndarray],
    offsets: Iterable[np.ndarray],
    batch_size: int,
) -> Consistency:
    """Of pairs of views, whose offsets come for each pass."""
    given = np.asarray(images)

    def views(places: range, offsets: np.ndarray) -> np.ndarray:
        return np.stack([view(given[i], offsets[i]) for i in places])

    found = []
    for pairs in offsets:
        both = [partial(views, offsets=pairs[:, side]) for side in range(2)]
        first, second = (_probabilities(classifier, each, len(given), batch_size) for each in both)
        found.append(_compare(first, second, labels))
    return _summary(found)


def _probabilities(
    classifier: Classifier, views: Callable[[range], np.ndarray], count: int, batch_size: int
) -> np.ndarray:
    """(count, classes) of views, which are made when their batch is: all of ImageNet's would fill the memory."""
    check_whole(batch_size=batch_size)
    size, found = min(batch_size, count), []
    for first in range(0, count, size):
        places = range(first, min(first + size, count))
        batch = views(places)
        if len(batch) != len(places):
            raise InputError(f"the transform made {len(batch)} images of {len(places)}, but each image needs one")
        # One shape, so that one program is compiled.
        full = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        logits = classifier(full)
        check_finite(logits)
        found.append(np.asarray(jax.nn.softmax(logits))[: len(batch)])
    return np.concatenate(found)


def _compare(first: np.ndarray, second: np.ndarray, labels: Any) -> tuple[float, float | None, float]:
    answers = first.argmax(1)
    places = np.arange(len(answers)), answers
    accuracy = None if labels is None else float((answers == np.asarray(labels)).mean())
    return float((answers == second.argmax(1)).mean()), accuracy, float(np.abs(first - second)[places].mean())


def _summary(passes: list[tuple[float, float | None, float]]) -> Consistency:
    consistency, accuracy, change = zip(*passes, strict=True)
    right = None if None in accuracy else float(np.mean(accuracy))
    return Consistency(float(np.mean(consistency)), right, float(np.mean(change)), consistency)
