"""The variables of a network before training: drawn, or their shapes alone."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def init(model: nn.Module, image_shape: Sequence[int], key: jax.Array) -> dict[str, Any]:
    """Draws the variables of a network.

    Args:
      model: a network of `resnet_jax.models`.
      image_shape: (height, width, channels). Only the channels matter to a `ResNet`, whose maps have any size.
      key: of `jax.random`; the same key draws the same variables on any number of devices.

    Returns:
      the collections "params" and "batch_stats", nested dicts of float32 arrays.

    >>> from resnet_jax import models
    >>> variables = models.init(models.create("cifar_resnet8"), (32, 32, 3), jax.random.key(0))
    >>> variables["params"]["fc"]["kernel"].shape
    (64, 10)
    """
    return _init(model, tuple(image_shape), key)


def abstract_variables(model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """The shapes and dtypes of what `init` draws, as `jax.ShapeDtypeStruct`s; nothing is computed.

    >>> from resnet_jax import models
    >>> abstract_variables(models.create("cifar_resnet8"), (32, 32, 3))["params"]["fc"]["kernel"]
    ShapeDtypeStruct(shape=(64, 10), dtype=float32)
    """
    return jax.eval_shape(partial(init, model, image_shape), jax.random.key(0))


# Compiled as a part of what calls it, and traced once for all of those.
@partial(jax.jit, static_argnums=(0, 1))
def _init(model: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    return model.init(key, jnp.zeros((1, *image_shape)), train=False)
