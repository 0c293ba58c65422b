"""What part of an image a unit of a layer can see, and what part it does see."""

import itertools
import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Num

from resnet_jax.analysis.execution import executed_layers
from resnet_jax.analysis.inputs import check_images, check_stages, unfrozen
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import VGG, ResNet
from resnet_jax.models.conv import Conv


class ReceptiveField(NamedTuple):
    """The pixels that a unit of a layer depends on, along one axis of the image.

    Attributes:
      name: the layer, such as "stage2/block1/conv2", "pool1", or "stage2" for the map that a stage ends with.
      size: pixels, some of which may lie outside the image.
      stride: pixels from one unit to the next.
      start: the first pixel of the first unit, negative where that is padding.
    """

    name: str
    size: int
    stride: int
    start: int

    def of_unit(self, index: int) -> tuple[int, int]:
        """The first and the last pixel of a unit, counted from 0.

        >>> ReceptiveField("conv1", 7, 2, -3).of_unit(1)
        (-1, 5)
        """
        first = self.start + index * self.stride
        return first, first + self.size - 1


def receptive_fields(model: ResNet | VGG) -> list[ReceptiveField]:
    """The receptive field of each layer of a network, by its longest path; nothing is computed.

    Each convolution of k x k adds (k - 1) strides to the size. Shortcuts and gates see no more than the branches beside
    them, so that a residual network and its plain twin have the same fields.

    Raises:
      InputError: the network is neither a `ResNet` nor a `VGG`.

    >>> from resnet_jax import models
    >>> fields = receptive_fields(models.create("resnet18"))
    >>> fields[0]
    ReceptiveField(name='conv1', size=7, stride=2, start=-3)
    >>> fields[-1]
    ReceptiveField(name='stage4', size=435, stride=32, start=-215)
    """
    if not isinstance(model, ResNet | VGG):
        raise InputError(f"a {type(model).__name__} is not known here: receptive_fields is for ResNets and VGGs")
    module: Any = model  # hashable, which its declared types are not
    found: list[ReceptiveField] = []
    size, stride, start = 1, 1, 0

    def add(name: str, kernel: int, step: int, pad: int) -> None:
        nonlocal size, stride, start
        size, start, stride = size + (kernel - 1) * stride, start - pad * stride, stride * step
        found.append(ReceptiveField(name, size, stride, start))

    convolutions = [
        (each.name, each.module)
        for each in executed_layers(module, (64, 64, 3))
        if isinstance(each.module, Conv) and not re.search("shortcut|_gate", each.name)
    ]
    for stage, group in itertools.groupby(convolutions, key=lambda each: each[0].split("/")[0]):
        if stage == "stage1" and isinstance(model, ResNet) and model.stem == "imagenet":
            add("pool1", 3, 2, 1 if model.stem_pool_padding == "torch" else 0)
        for name, convolution in group:
            add(name, convolution.size, convolution.stride, (convolution.size - 1) // 2)
        if isinstance(model, VGG):
            add(f"{stage}/pool", 2, 2, 0)
        if stage.startswith("stage"):
            found.append(ReceptiveField(stage, size, stride, start))
    return found


def effective_field(
    classifier: Classifier, images: Num[Array | np.ndarray, "batch height width channels"], stage: str
) -> Float[np.ndarray, "height width"]:
    """How much each pixel moves the central unit of a map: the absolute gradient of the sum of its channels, averaged
    over the images and over their colours (Luo et al., 1701.04128).

    Where it is not zero lies within the `receptive_fields`' field of the unit; most of it lies near its centre.

    Args:
      classifier: a network with `stages`.
      images: RGB or grey, 0 to 255, uint8 or float.
      stage: "stem", "stage1", …

    Returns:
      a share of the sum for each pixel, float32; the unit is the one at (rows // 2, columns // 2) of its map.

    Raises:
      InputError: the network has no such stage.
    """
    check_images(classifier, images)
    check_stages(classifier.model)
    model, variables, given = unfrozen(classifier.model), classifier.variables, classifier.preprocessing(images)
    names = jax.eval_shape(partial(model.apply, variables, train=False, method="stages"), given)
    if stage not in names:
        raise InputError(f"there is no stage {stage!r}: stages are {', '.join(names)}")
    gradients = np.abs(_gradients(model, stage, variables, given)).mean((0, 3))
    return gradients / max(gradients.sum(), 1e-30)


@partial(jax.jit, static_argnums=(0, 1))
def _gradients(model: nn.Module, stage: str, variables: Any, images: jax.Array) -> jax.Array:
    def central(images: jax.Array) -> jax.Array:
        maps: Any = model.apply(variables, images, train=False, method="stages")
        rows, columns = (side // 2 for side in maps[stage].shape[1:3])
        return maps[stage][:, rows, columns].sum()

    return jax.grad(central)(images)
