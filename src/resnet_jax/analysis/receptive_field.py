"""What part of an image a unit of a layer can see, and what part it does see."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier, check_classifier
from resnet_jax.models import ResNet
from resnet_jax.models.conv import Conv
from resnet_jax.models.stacking import block_names


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


def receptive_fields(model: ResNet) -> list[ReceptiveField]:
    """The receptive field of each layer of a network, by its longest path; nothing is computed.

    Each convolution of k x k adds (k - 1) strides to the size. Shortcuts see less than the branches around which they
    lead, so that a residual network and its plain twin have the same fields.

    Raises:
      InputError: the network is no `ResNet`.

    >>> from resnet_jax import models
    >>> fields = receptive_fields(models.create("resnet18"))
    >>> fields[0]
    ReceptiveField(name='conv1', size=7, stride=2, start=-3)
    >>> fields[-1]
    ReceptiveField(name='stage4', size=435, stride=32, start=-215)
    """
    if not isinstance(model, ResNet):
        raise InputError(f"a {type(model).__name__} is not known here: receptive_fields is for ResNets")
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}

    def record(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if module.path == ("stage1",) and model.stem == "imagenet":
            found["pool1",] = 3, 2, 1 if model.stem_pool_padding == "torch" else 0
        if isinstance(module, Conv) and "shortcut" not in module.path:
            found[module.path] = module.size, module.stride, (module.size - 1) // 2
        return method(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)

    fields: list[ReceptiveField] = []
    size, stride, start = 1, 1, 0
    for stage, of_stage in itertools.groupby(found, key=lambda path: path[0]):
        for part, group in itertools.groupby(of_stage, key=lambda path: path[1:2]):
            paths = list(group)
            blocks = block_names(part[0], model.stage_sizes[int(stage.removeprefix("stage")) - 1]) if part else [""]
            # Scanned blocks are traced once.
            for block, path in itertools.product(blocks, paths):
                kernel, step, pad = found[path]
                size, start, stride = size + (kernel - 1) * stride, start - pad * stride, stride * step
                name = "/".join([stage, block, *path[2:]] if part else [stage])
                fields.append(ReceptiveField(name, size, stride, start))
        if stage.startswith("stage"):
            fields.append(ReceptiveField(stage, size, stride, start))
    return fields


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
    check_classifier(classifier, "images")
    model, variables, given = classifier.model, classifier.variables, classifier.preprocessing(images)
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
