"""The state of a run: one immutable dataclass, born sharded, donated to every step, checkpointed whole."""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from resnet_jax import models, rng
from resnet_jax.sharding import fsdp_shardings, replicated


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: updates made or skipped, int32: the one count that schedules, batches and augmentation go by.
      params: float32.
      batch_stats: running means and variances of the batch norms, float32.
      opt_state: of the optimiser.
      skipped: how many of the last steps in a row made no update, int32; see `step.train_step`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    skipped: jax.Array = flax.struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    image_shape: tuple[int, ...],
    mesh: Mesh,
) -> TrainState:
    """Draws the initial state of a run, directly into its shardings (see `state_shardings`).

    Args:
      model: a network of `resnet_jax.models`.
      optimizer: of `schedules.sgd`.
      seed: of the run; the parameters depend on nothing else.
      image_shape: (height, width, channels).
      mesh: that holds the state.
    """
    init = partial(_init, model, optimizer, image_shape)
    shardings = state_shardings(mesh, jax.eval_shape(init, jax.random.key(0)))
    return jax.jit(init, out_shardings=shardings)(rng.stream(seed, "parameters"))


def abstract_state(
    model: nn.Module, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...], mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of a state, for restoring one and for compiling; arguments as of `create_state`."""
    shapes = jax.eval_shape(partial(_init, model, optimizer, image_shape), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        state_shardings(mesh, shapes),
    )


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Parameters and the optimiser's state are cut over "fsdp" (see `sharding.fsdp_specs`); the rest is everywhere."""
    everywhere: Any = replicated(mesh)
    return TrainState(
        everywhere,
        fsdp_shardings(mesh, state.params),
        jax.tree.map(lambda _: everywhere, state.batch_stats),
        fsdp_shardings(mesh, state.opt_state),
        everywhere,
    )


def must_be_finite(state: TrainState) -> list[jax.Array]:
    """The arrays in which an infinity or a NaN is damage: parameters, running statistics and the optimiser's buffers.

    A buffer, such as the momentum of a kernel, has the name and the shape of its parameter. What else an optimiser
    keeps can be a sentinel: the best error of `optax.contrib.reduce_on_plateau` is infinite until an epoch is over.
    """
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    buffers = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if any(shapes.get(path[i:]) == leaf.shape for i in range(len(path)))
    ]
    return [*jax.tree.leaves(state.variables), *buffers]


def _init(
    model: nn.Module, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...], key: jax.Array
) -> TrainState:
    variables = models.init(model, image_shape, key)
    params = variables["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))
