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
from resnet_jax.distributed.mesh import fsdp_shardings, make_mesh, put_everywhere, replicated
from resnet_jax.errors import InputError


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: updates made or skipped, int32: the one count that schedules, batches and augmentation go by.
      params: float32.
      batch_stats: running means and variances of the batch norms, float32.
      opt_state: of the optimiser, for the parameters that are trained.
      skipped: the last steps in a row that made no update, int32; see `step.train_step`.
      ema: exponential moving averages of the variables, or None; see `step.train_step`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    skipped: jax.Array = flax.struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))
    ema: Any = None

    def __repr__(self) -> str:
        try:
            step = f"step {self.step}"
        except RuntimeError:
            step = "given away to a step"
        count = sum(getattr(leaf, "size", 0) for leaf in jax.tree.leaves(self.params))
        return f"TrainState({step}, {count:,} parameters{'' if self.ema is None else ' and their averages'})"

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """What is evaluated: the averaged variables where there are some."""
        return self.variables if self.ema is None else self.ema


def create_state(
    network: Any,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    image_shape: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
    *,
    ema: bool = False,
) -> TrainState:
    """The initial state of a run, made directly in its shardings (see `state_shardings`).

    Args:
      network: a Linen module that is called with (images, train), whose variables are drawn; or what has `model` and
        `variables`, such as an `evaluation.Classifier`, whose variables are copied.
      optimizer: `optimizers.sgd`, or any other one of Optax.
      seed: of the run; the parameters that are drawn depend on nothing else.
      image_shape: (height, width, channels) of a module's images.
      mesh: that holds the state; None is all devices.
      ema: keeps averages of the variables too; see `step.train_step`.

    Raises:
      InputError: no network, or no optimizer.
      ValueError: a module without an image_shape.

    Example:
      >>> model = models.create("cifar_resnet8", num_classes=2)
      >>> state = create_state(model, optax.adamw(1e-3), seed=0, image_shape=(32, 32, 3))
      >>> print(state.step, state.params["fc"]["kernel"].shape)
      0 (64, 2)
    """
    check_arguments("create_state", network, optimizer)
    mesh = mesh or make_mesh()
    if not isinstance(network, nn.Module):
        # Copied, for the steps to donate what nobody else holds.
        init, given = partial(_with_variables, network.model, optimizer, ema), put_everywhere(mesh, network.variables)
    elif image_shape is None:
        raise ValueError("a module's parameters are drawn for images: give their image_shape=(height, width, channels)")
    else:
        init, given = partial(_init, network, optimizer, image_shape, ema), rng.stream(seed, "parameters")
    return jax.jit(init, out_shardings=state_shardings(mesh, jax.eval_shape(init, given)))(given)


def check_arguments(function: str, network: Any, optimizer: Any) -> None:
    """Refuses what is no network, or no optimizer, in the name of a function that wants both in this order."""
    if not (isinstance(network, nn.Module) or hasattr(network, "model")):
        found = type(network).__name__
        raise InputError(f"{found} is no network: give {function} a classifier or a module, and then an optimizer")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InputError(
            f"{type(optimizer).__name__} is no optimizer: give {function} one of Optax, such as training.sgd(0.1)"
        )


def abstract_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    mesh: Mesh,
    *,
    ema: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of a state, for restoring one and for compiling; arguments as of `create_state`."""
    # The key too is one of shape alone: a real one would be sent to a device in the middle of a run.
    shapes = jax.eval_shape(lambda: _init(model, optimizer, image_shape, ema, jax.random.key(0)))
    return _abstract(shapes, state_shardings(mesh, shapes))


def abstract_variables(model: nn.Module, image_shape: tuple[int, ...], mesh: Mesh | None = None) -> dict[str, Any]:
    """Shapes, dtypes and shardings of `TrainState.variables`, without an optimiser; arguments as of `create_state`."""
    shapes = {"batch_stats": {}, **models.abstract_variables(model, image_shape)}
    return _abstract(shapes, variable_shardings(mesh or make_mesh(), shapes))


def trained(model: nn.Module, variables: Any) -> dict[str, Any]:
    """The variables that training changes: without what a model freezes, see `models.ResNet.frozen`.

    An optimiser never sees frozen parameters. So no decay, momentum or norm over all of them reaches these, whatever
    the optimiser, and its state is no larger than it must be.
    """
    fields = {"params": "frozen", "batch_stats": "frozen_statistics"}
    # A module of one's own may mean something else by a field of that name, such as a truth value.
    frozen = {name: value for name in fields if isinstance(value := getattr(model, fields[name], ()), tuple)}
    return {
        name: {each: tree for each, tree in collection.items() if each not in frozen.get(name, ())}
        for name, collection in variables.items()
    }


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Parameters and the optimiser's state are sharded over "fsdp" (see `mesh.fsdp_specs`); the rest is everywhere."""
    everywhere: Any = replicated(mesh)
    return TrainState(
        everywhere,
        **variable_shardings(mesh, state.variables),
        opt_state=fsdp_shardings(mesh, state.opt_state),
        skipped=everywhere,
        ema=None if state.ema is None else variable_shardings(mesh, state.ema),
    )


def variable_shardings(mesh: Mesh, variables: Any) -> dict[str, Any]:
    """As of `state_shardings`, of {"params", "batch_stats"}."""
    return {
        "params": fsdp_shardings(mesh, variables["params"]),
        "batch_stats": jax.tree.map(lambda _: replicated(mesh), variables["batch_stats"]),
    }


def must_be_finite(state: TrainState) -> list[jax.Array]:
    """The arrays in which an infinity or a NaN is damage: parameters, running statistics, their averages and the
    optimiser's buffers.

    A buffer, such as the momentum of a kernel, has the name and the shape of its parameter. What else an optimiser
    keeps can be a sentinel: the best error of `optax.contrib.reduce_on_plateau` is infinite until an epoch is over.
    """
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    buffers = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if any(shapes.get(path[i:]) == leaf.shape for i in range(len(path)))
    ]
    return [*jax.tree.leaves((state.variables, state.ema)), *buffers]


def _abstract(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )


def _init(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    ema: bool,
    key: jax.Array,
) -> TrainState:
    return _with_variables(model, optimizer, ema, models.init(model, image_shape, key))


def _with_variables(model: nn.Module, optimizer: optax.GradientTransformation, ema: bool, variables: Any) -> TrainState:
    variables, averages = (jax.tree.map(jnp.copy, {"batch_stats": {}, **variables}) for _ in range(2))
    return TrainState(
        jnp.zeros((), jnp.int32),
        **variables,
        opt_state=optimizer.init(trained(model, variables)["params"]),
        ema=averages if ema else None,
    )
