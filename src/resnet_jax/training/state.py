"""The state of a run: one immutable dataclass, born sharded, donated to every step, checkpointed whole."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding

from resnet_jax import rng


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: updates made, int32.
      params: float32.
      batch_stats: running means and variances of the batch norms, float32.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    image_shape: tuple[int, ...],
    sharding: Sharding,
) -> TrainState:
    """Draws the initial state of a run, directly into its sharding.

    Args:
      model: a network of `resnet_jax.models`.
      optimizer: of `schedules.sgd`.
      seed: of the run; the parameters depend on nothing else.
      image_shape: (height, width, channels).
      sharding: of every array.
    """

    def init(key):
        variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))

    return jax.jit(init, out_shardings=sharding)(rng.stream(seed, "parameters"))


def abstract_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    sharding: Sharding,
) -> TrainState:
    """Shapes, dtypes and shardings of a state, for restoring one."""
    state = jax.eval_shape(lambda: create_state(model, optimizer, 0, image_shape, sharding))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
