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
from PIL import Image

from resnet_jax.data.decode import resample
from resnet_jax.data.passes import center_view
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.windows import Box, corner_windows
from resnet_jax.errors import InputError
from resnet_jax.evaluation.trained import Trained
from resnet_jax.models import ResNet

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
      averaging: "logits" or "softmax", for "dense"; see `dense_scores`.
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
    protocol: Protocol, image_shape: Sequence[int], preprocessing: Preprocessing, pixels: np.ndarray
) -> list[np.ndarray]:
    """What a network is shown of an image; every view gets a score of its own, and an image's score is their average.

    Args:
      protocol: of the evaluation.
      image_shape: (height, width, channels) that the network was trained on; photographs become grey for one channel.
      preprocessing: its `shorter_side` and `interpolation`.
      pixels: of the whole image, (height, width, 3) uint8.
    """
    if protocol.name == "original":
        return [pixels]
    interpolation = preprocessing.interpolation
    if protocol.name == "dense":
        shown = [dense_view(pixels, scale, interpolation) for scale in protocol.scales]
    else:
        size = (image_shape[0], image_shape[1])
        view = {"center": center_view, "ten_crop": five_crop_view}[protocol.name]
        shown = [view(pixels, preprocessing.shorter_side or max(size), size, interpolation)]
    return [_grey(view) for view in shown] if image_shape[2] == 1 else shown


def five_crop_view(pixels: np.ndarray, shorter_side: int, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """(height, width, 3) uint8 of any size -> (5, *size, 3): the shorter side is resized, then the four corners and the
    centre are cut out.
    """
    height, width = pixels.shape[:2]
    boxes = corner_windows(height, width, shorter_side, size)
    return np.stack([resample(pixels, box, size, interpolation) for box in boxes])


def dense_view(pixels: np.ndarray, scale: int, interpolation: str) -> np.ndarray:
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


def scores(protocol: Protocol, trained: Trained, images: jax.Array) -> jax.Array:
    """Log-probabilities of a batch of views of one shape: (batch, …) uint8 -> (batch, classes) float32."""
    network = (trained.model, trained.variables, trained.preprocessing)
    if protocol.name == "ten_crop":
        return ten_crop_scores(*network, images)
    if protocol.name == "dense":
        return dense_scores(*network, images, trained.card.image_shape, protocol.averaging)
    return single_scores(*network, images)


def log_mean(log_probabilities: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The logarithm of the mean of probabilities along some axes."""
    parts = math.prod(log_probabilities.shape[axis] for axis in axes)
    return jax.nn.logsumexp(log_probabilities, axes) - math.log(parts)


@partial(jax.jit, static_argnames="model")
def single_scores(model: ResNet, variables: Any, preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """Scores of single views: uint8 (batch, height, width, channels) -> (batch, classes)."""
    return jax.nn.log_softmax(model.apply(variables, preprocessing(images), train=False))  # pyright: ignore[reportArgumentType]


@partial(jax.jit, static_argnames="model")
def ten_crop_scores(model: ResNet, variables: Any, preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """The mean probability of five crops and their mirror images: uint8 (batch, 5, height, width, channels) -> (batch,
    classes).
    """
    logits: Any = model.apply(variables, _mirrored(preprocessing, images), train=False)
    return log_mean(jax.nn.log_softmax(logits).reshape(len(images), -1, logits.shape[-1]), axes=(1,))


@partial(jax.jit, static_argnames=("model", "image_shape", "averaging"))
def dense_scores(
    model: ResNet,
    variables: Any,
    preprocessing: Preprocessing,
    images: jax.Array,
    image_shape: tuple[int, ...],
    averaging: str,
) -> jax.Array:
    """The network applied fully convolutionally to whole images and their mirror images, whose probabilities are
    averaged.

    The last maps are averaged over windows at every position, and the classifier is applied to each of them.

    Args:
      model, variables, preprocessing: the network.
      images: uint8 (batch, height, width, channels).
      image_shape: (height, width, channels) that the network was trained on. The pooling window is as large as its last
        map was there (7 x 7 at 224 pixels), clipped to the map.
      averaging: "logits" averages the logits over the map (as VGG did; the paper does not say), "softmax" the
        probabilities.

    Returns:
      (batch, classes).
    """
    last = f"stage{len(model.stage_sizes)}"

    def last_maps(images: jax.Array) -> jax.Array:
        maps: Any = model.apply(variables, images, train=False, method="stages")
        return maps[last]

    maps = last_maps(_mirrored(preprocessing, images[:, None]))
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    trained_on = jax.eval_shape(last_maps, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).shape[1:3]
    window = (min(trained_on[0], maps.shape[1]), min(trained_on[1], maps.shape[2]))
    pooled = nn.avg_pool(maps, window, strides=(1, 1))
    if averaging == "logits":
        # The classifier is linear: the mean of its outputs is its output for the mean.
        pooled = pooled.mean((1, 2), keepdims=True)
    classifier = nn.Dense(model.num_classes, dtype=pooled.dtype)
    logits: Any = classifier.apply({"params": variables["params"]["fc"]}, pooled)
    logits = logits.reshape(len(images), 2, *logits.shape[1:])
    return log_mean(jax.nn.log_softmax(logits), axes=(1, 2, 3))


def _mirrored(preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """uint8 (batch, views, height, width, channels) -> pre-processed (batch * views * 2, height, width, channels), the
    views of an image together with their mirror images.

    Mirrored after the mean image is subtracted, as in training.
    """
    flat = preprocessing(images.reshape(-1, *images.shape[2:]))
    # Stacked on an axis of its own: along the batch, which is cut over the devices, it would move images between them.
    return jnp.stack([flat, flat[:, :, ::-1]], 1).reshape(-1, *flat.shape[1:])
