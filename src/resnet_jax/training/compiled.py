"""The steps as programs: compiled with shardings, many to a dispatch, or one for a loop of one's own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax import rng
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.compiler import compiler_options, jit
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, put_batch, put_everywhere, replicated
from resnet_jax.errors import InputError
from resnet_jax.training.losses import Loss, cross_entropy
from resnet_jax.training.metrics import Metrics
from resnet_jax.training.state import TrainState, check_arguments, state_shardings
from resnet_jax.training.step import add_up, eval_step, train_step


def make_train_step(
    network: Any,
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss = cross_entropy,
    preprocessing: Preprocessing | None = None,
    augment: Callable[[jax.Array, Any], Any] | None = None,
    mesh: Mesh | None = None,
    grad_accum_steps: int = 1,
    skip_nonfinite: bool = False,
    ema_decay: float | None = None,
    seed: int = 0,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Makes the compiled step of a loop of one's own, `(state, batch) -> (state, metrics)`, which donates the state.

    A batch is a `Batch`, or a named tuple of one's own that the loss can read. Its `images`, (batch, height, width,
    channels), are pre-processed in the step where they are uint8, and given to the model as they are where they are
    floats. Arrays are on devices, or NumPy's: of several processes each gives its own part.

    Args:
      network: a Linen module, or what has `model` and `preprocessing`, such as an `evaluation.Classifier`.
      optimizer, loss, grad_accum_steps, skip_nonfinite, ema_decay: see `train_step`.
      preprocessing: of uint8 images; None is the network's.
      augment: (key, batch) -> batch, of images that are pre-processed; each step has a key of its own.
      mesh: the devices of the state; None is all of them.
      seed: of the keys that `augment` is given.

    Raises:
      InputError: no network, no optimizer or no loss; from the step: the batch cannot be divided by the devices.
      ValueError: from the step: uint8 images and no pre-processing, or a mean image of another size, images of another
        dtype, or groups of batch norm that do not fit the batch.

    Example:
      >>> import numpy as np, optax, resnet_jax as rj
      >>> model, optimizer = rj.create("cifar_resnet8", num_classes=2), optax.adamw(1e-3)
      >>> state = rj.training.create_state(model, optimizer, seed=0, image_shape=(8, 8, 3))
      >>> step = rj.training.make_train_step(model, optimizer)
      >>> state, metrics = step(state, rj.data.Batch(np.ones((8, 8, 8, 3), np.float32), np.arange(8) % 2))
      >>> sorted(metrics), float(metrics["loss"]) > 0
      (['error', 'loss'], True)
    """
    check_arguments("make_train_step", network, optimizer)
    if not callable(loss):
        raise InputError(f"loss is {loss!r}, but it must be a function, such as training.cross_entropy")
    mesh, model, preprocessing = _take_apart(network, mesh, preprocessing)
    one_step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        mesh=mesh,
        loss=loss,
        grad_accum_steps=grad_accum_steps,
        skip_nonfinite=skip_nonfinite,
        ema_decay=ema_decay,
    )

    def make_batch(data, seed, step):
        batch = _preprocess(*data)
        return augment(jax.random.fold_in(rng.stream(seed, "augmentation"), step), batch) if augment else batch

    @partial(jit, donate_argnums=0)
    def compiled(state, data, seed):
        return _place(mesh, *_take_step(one_step, make_batch, mesh, state, data, seed))

    seed_array = put_everywhere(mesh, np.uint32(seed))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        batch = _put(mesh, batch, grad_accum_steps)
        return compiled(state, (batch, preprocessing), seed_array)

    return step


def make_eval_step(
    network: Any, *, loss: Loss = cross_entropy, preprocessing: Preprocessing | None = None, mesh: Mesh | None = None
) -> Callable[[Any, Any], Metrics]:
    """Makes the compiled `(variables, batch) -> metrics`; arguments and errors as of `make_train_step`.

    The metrics of several batches are added up by `jax.tree.map(operator.add, one, other)`.
    """
    mesh, model, preprocessing = _take_apart(network, mesh, preprocessing)
    compiled = compile_evaluation(partial(eval_step, model=model, loss=loss), lambda data, _: _preprocess(*data), mesh)
    return lambda variables, batch: compiled(variables, (_put(mesh, batch), preprocessing), 1)


def _take_apart(network: Any, mesh: Mesh | None, preprocessing: Preprocessing | None) -> tuple[Mesh, Any, Any]:
    mesh = mesh or make_mesh()
    if isinstance(network, nn.Module):
        return mesh, network, put_everywhere(mesh, preprocessing)
    return mesh, network.model, put_everywhere(mesh, preprocessing or network.preprocessing)


def _put(mesh: Mesh, batch: Any, grad_accum_steps: int = 1) -> Any:
    """A batch, sharded over the mesh; of NumPy's arrays each process has its own part."""
    hosts = 1 if isinstance(batch.images, jax.Array) else jax.process_count()
    check_divides(mesh, len(batch.images) * hosts, "the batch size", grad_accum_steps=grad_accum_steps)
    place = batch_sharded(mesh)
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, place) if isinstance(leaf, jax.Array) else put_batch(mesh, leaf), batch
    )


def _preprocess(batch: Any, preprocessing: Preprocessing | None) -> Any:
    if jnp.issubdtype(batch.images.dtype, jnp.floating):
        return batch
    if batch.images.dtype != jnp.uint8:
        raise ValueError(
            f"images are {batch.images.dtype}, but they must be uint8, from 0 to 255, or pre-processed floats"
        )
    if preprocessing is None:
        raise ValueError("uint8 images need a pre-processing: give preprocessing=, or float images")
    shown, mean = (" x ".join(map(str, each.shape[-3:-1])) for each in (batch.images, preprocessing.mean))
    if mean not in ("1 x 1", shown):
        raise ValueError(
            f"images are {shown} pixels, but the mean image that is subtracted is {mean}: give images of that size, or "
            "preprocessing= with the mean of each channel"
        )
    return batch._replace(images=preprocessing(batch.images))


def compile_steps(
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    make_batch: Callable[[Any, jax.Array, jax.Array], Any],
    mesh: Mesh,
) -> Any:
    """Compiles `(state, data, seed, steps) -> (state, metrics)`: `steps` updates in one dispatch.

    The state is donated. Metrics hold one value for each step and stay on the device. Batches are made inside, so that
    the host does nothing between two steps. The seed is a uint32 array: another seed is the same program.

    Args:
      train_step: (state, batch) -> (state, metrics); pure.
      make_batch: (data, seed, step) -> batch; pure. The data are a whole data set, or one streamed batch for one step.
      mesh: that the batches and the state are sharded over.
    """

    @partial(jax.jit, static_argnums=3, donate_argnums=0, compiler_options=compiler_options())
    def train_steps(state, data, seed, steps):
        def body(state, _):
            return _take_step(train_step, make_batch, mesh, state, data, seed)

        # A single step is written out: with unroll=1 JAX would leave a loop of a single turn.
        return _place(mesh, *jax.lax.scan(body, state, None, length=steps, unroll=2 if steps == 1 else 1))

    return train_steps


def _take_step(train_step: Any, make_batch: Any, mesh: Mesh, state: TrainState, data: Any, seed: jax.Array) -> Any:
    batch = make_batch(data, seed, state.step)
    return train_step(state, jax.lax.with_sharding_constraint(batch, batch_sharded(mesh)))


def _place(mesh: Mesh, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    return jax.lax.with_sharding_constraint((state, metrics), (state_shardings(mesh, state), replicated(mesh)))


def compile_evaluation(
    eval_step: Callable[[Any, Any], Metrics], make_batch: Callable[[Any, jax.Array], Any], mesh: Mesh
) -> Any:
    """Compiles `(variables, data, batches) -> metrics`: totals over so many batches, on every device.

    Args:
      eval_step: (variables, batch) -> metrics; pure.
      make_batch: (data, index) -> batch; pure. The data are a whole split, or one streamed batch.
      mesh: that the batches are sharded over.
    """

    @partial(jit, static_argnums=2, out_shardings=replicated(mesh))
    def evaluate(variables, data, batches):
        def metrics_of(index):
            batch = jax.lax.with_sharding_constraint(make_batch(data, index), batch_sharded(mesh))
            return eval_step(variables, batch)

        return metrics_of(jnp.zeros((), jnp.int32)) if batches == 1 else add_up(metrics_of, jnp.arange(batches))

    return evaluate
