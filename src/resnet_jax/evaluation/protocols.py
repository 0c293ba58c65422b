"""The paper's evaluation protocols (section 3.4): which parts of a photograph a network is shown, on the host, and how
the scores of the parts are averaged, on the device.

Scores are log-probabilities: a probability that float32 rounds to zero would have no logarithm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from resnet_jax.data.decode import resample
from resnet_jax.data.sequential import center_view
from resnet_jax.data.windows import Box, corner_windows
from resnet_jax.distributed.compiler import jit
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier, check_fit

NAMES = ("center", "ten_crop", "dense")
AVERAGING = ("logits", "softmax")

# Section 3.4: the shorter sides of the fully convolutional form.
SCALES = (224, 256, 384, 480, 640)

# Dense images are as long as a multiple of this, and at most so many times as long as wide: each size is a program that
# has to be compiled.
_STEP = 32
_MOST_ASPECT = 4


@dataclass(frozen=True)
class Protocol:
    """A way to score a photograph.

    Attributes:
      name: one of `NAMES`, or "original": the pixels as they are, for images that are as large as the network's.
      scales: shorter sides, for "dense".
      averaging: "logits" or "softmax", for "dense"; see `_dense_scores`.
    """

    name: str
    scales: tuple[int, ...] = SCALES
    averaging: str = "logits"


def choose(name: str, scales: Sequence[int] | None = None, averaging: str = "logits") -> Protocol:
    """A protocol of the paper.

    Raises:
      InputError: no such protocol, or scales or an averaging that it does not have.
    """
    if name not in NAMES:
        raise InputError(f"the protocol is {name!r}, but it must be one of {', '.join(NAMES)}")
    if averaging not in AVERAGING:
        raise InputError(f"the averaging is {averaging!r}, but it must be one of {', '.join(AVERAGING)}")
    if name != "dense" and (scales is not None or averaging != "logits"):
        raise InputError(f"scales and averaging belong to the protocol dense, but the protocol is {name}")
    chosen = SCALES if scales is None else tuple(scales)
    if not chosen or min(chosen) < 1:
        raise InputError(f"the scales are {chosen}, but they must be shorter sides in pixels, such as 224,256")
    return Protocol(name, chosen, averaging)


def views(
    protocol: Protocol, classifier: Classifier, pixels: UInt8[np.ndarray, "height width channels"]
) -> list[UInt8[np.ndarray, "..."]]:
    """What a network is shown of an image: whole pixels (height, width, 3) uint8 -> views, grey ones for one channel.

    Every view gets a score of its own, and an image's score is their average.
    """
    if protocol.name == "original":
        return [pixels]
    shape, interpolation = classifier.image_shape, classifier.preprocessing.interpolation
    if protocol.name == "dense":
        shown = [dense_view(pixels, scale, interpolation) for scale in protocol.scales]
    else:
        view = {"center": center_view, "ten_crop": five_crop_view}[protocol.name]
        shown = [view(pixels, classifier.preprocessing.resized_to(shape), (shape[0], shape[1]), interpolation)]
    return [_grey(view) for view in shown] if shape[2] == 1 else shown


def five_crop_view(
    pixels: UInt8[np.ndarray, "height width 3"], resize_size: int, size: tuple[int, int], interpolation: str
) -> UInt8[np.ndarray, "5 {size[0]} {size[1]} 3"]:
    """(height, width, 3) uint8 of any size -> (5, *size, 3): the shorter side is resized, then the four corners and the
    centre are cut out.
    """
    height, width = pixels.shape[:2]
    boxes = corner_windows(height, width, resize_size, size)
    return np.stack([resample(pixels, box, size, interpolation) for box in boxes])


def dense_view(
    pixels: UInt8[np.ndarray, "height width 3"], scale: int, interpolation: str
) -> UInt8[np.ndarray, "_ _ 3"]:
    """(height, width, 3) uint8 of any size -> the whole image at `dense_size`."""
    height, width = pixels.shape[:2]
    return resample(pixels, Box(0, 0, width, height), dense_size(height, width, scale), interpolation)


def dense_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """(height, width) of an image whose shorter side becomes `scale`, in a limited number of sizes.

    The longer side is rounded to the nearest multiple of 32, but not below the shorter one, which changes the aspect
    by at most 7 % at scale 224 and 2.5 % at 640; where it is more than 4 times the shorter one, it becomes 4 times.
    """
    longer = round(scale * max(height, width) / min(height, width) / _STEP) * _STEP
    longer = min(max(longer, scale), _MOST_ASPECT * scale)
    return (scale, longer) if height <= width else (longer, scale)


def _grey(view: np.ndarray) -> np.ndarray:
    rows = view.reshape(-1, *view.shape[-2:])  # Pillow knows no stacks of images; one below the other are one
    return np.asarray(Image.fromarray(rows).convert("L")).reshape(*view.shape[:-1], 1)


def passes(protocol: Protocol) -> int:
    """How often the network sees each view: 2 where mirror images are scored, too."""
    return 2 if protocol.name in ("ten_crop", "dense") else 1


@partial(jit, static_argnames="protocol")
def scores(
    protocol: Protocol, classifier: Classifier, images: UInt8[Array, "batch ..."]
) -> Float[Array, "batch classes"]:
    """Log-probabilities of a batch of views of one shape: uint8 (batch, …) -> (batch, classes) float32.

    The views are (height, width, channels), and those of "ten_crop" five of them, (5, height, width, channels).
    """
    views = jnp.asarray(images)
    check_fit(classifier, views.reshape(-1, *views.shape[-3:]))
    if protocol.name == "dense":
        return _dense_scores(classifier, views, protocol.averaging)
    if protocol.name == "ten_crop":
        logits: Any = classifier.model.apply(classifier.variables, _mirrored(classifier, views), train=False)
        return _log_mean(jax.nn.log_softmax(logits).reshape(len(views), -1, logits.shape[-1]), axes=(1,))
    return jax.nn.log_softmax(classifier(views))


def _log_mean(log_probabilities: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The logarithm of the mean of probabilities along some axes."""
    count = math.prod(log_probabilities.shape[axis] for axis in axes)
    return jax.nn.logsumexp(log_probabilities, axes) - math.log(count)


def _dense_scores(classifier: Classifier, images: jax.Array, averaging: str) -> jax.Array:
    """The network applied fully convolutionally to whole images and their mirror images, whose probabilities are
    averaged.

    The last maps are averaged over windows at every position, and the classifier is applied to each of them. The window
    is as large as the last map of an image of `classifier.image_shape` (7 x 7 at 224 pixels), clipped to the map.
    "logits" averages the logits over the map (as VGG did; the paper does not say), "softmax" the probabilities.
    """
    model: Any = classifier.model
    last = f"stage{len(model.stage_sizes)}"

    def last_maps(images: jax.Array) -> jax.Array:
        return model.apply(classifier.variables, images, train=False, method="stages")[last]

    maps = last_maps(_mirrored(classifier, images[:, None]))
    maps = maps.astype(np.promote_types(maps.dtype, jnp.float32))
    trained_on = jax.eval_shape(last_maps, jax.ShapeDtypeStruct((1, *classifier.image_shape), jnp.float32)).shape[1:3]
    window = (min(trained_on[0], maps.shape[1]), min(trained_on[1], maps.shape[2]))
    # As nn.avg_pool, which divides by a whole number of NumPy that strict promotion refuses.
    pooled = nn.pool(maps, 0.0, jax.lax.add, window, (1, 1), "VALID") / math.prod(window)
    if averaging == "logits":
        # The classifier is linear: the mean of its outputs is its output for the mean.
        pooled = pooled.mean((1, 2), keepdims=True)
    logits: Any = model.apply(classifier.variables, pooled, method=lambda network, pooled: network.fc(pooled))
    logits = logits.reshape(len(images), 2, *logits.shape[1:])
    return _log_mean(jax.nn.log_softmax(logits), axes=(1, 2, 3))


def _mirrored(classifier: Classifier, images: jax.Array) -> jax.Array:
    """uint8 (batch, views, height, width, channels) -> pre-processed (batch * views * 2, height, width, channels), the
    views of an image together with their mirror images.

    Mirrored after the mean image is subtracted, as in training.
    """
    flat = classifier.preprocessing(images.reshape(-1, *images.shape[2:]))
    # Stacked on an axis of its own: along the batch, which is sharded over the devices, it would move images.
    return jnp.stack([flat, flat[:, :, ::-1]], 1).reshape(-1, *flat.shape[1:])
