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
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, put_batch, put_everywhere, replicated
from resnet_jax.training.losses import Loss, cross_entropy
from resnet_jax.training.metrics import Metrics
from resnet_jax.training.state import TrainState, state_shardings
from resnet_jax.training.step import eval_step, train_step, zeros_like


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

    A batch is a `Batch`, or a named tuple of one's own that the loss can read; its arrays are NumPy's, of several
    processes each one's part, or on devices. Images are `images`, (batch, height, width, channels): uint8 ones are
    pre-processed in the step, float ones are what the model is given.

    Args:
      network: a Linen module, or what has `model` and `preprocessing`, such as an `evaluation.Classifier`.
      optimizer, loss, skip_nonfinite, ema_decay: see `train_step`.
      preprocessing: of uint8 images; None is the network's.
      augment: (key, batch) -> batch, of images that are pre-processed; the key is another one in each step.
      mesh: the devices of the state; None is all of them.
      grad_accum_steps: parts that a batch is cut into, one after another.
      seed: of the keys that `augment` is given.

    Raises:
      InputError: from the step: the batch cannot be divided by the devices.
      ValueError: from the step: uint8 images, and no pre-processing.

    Example:
      >>> import numpy as np, optax, resnet_jax as rj
      >>> model, optimizer = rj.create("cifar_resnet8", num_classes=2), optax.adamw(1e-3)
      >>> state = rj.training.create_state(model, optimizer, seed=0, image_shape=(8, 8, 3))
      >>> step = rj.training.make_train_step(model, optimizer)
      >>> state, metrics = step(state, rj.data.Batch(np.ones((8, 8, 8, 3), np.float32), np.arange(8) % 2))
      >>> sorted(metrics), float(metrics["loss"]) > 0
      (['error', 'loss'], True)
    """
    mesh, model, preprocessing = _taken_apart(network, mesh, preprocessing)
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
        batch = _prepared(*data)
        return augment(jax.random.fold_in(rng.stream(seed, "augmentation"), step), batch) if augment else batch

    @partial(jax.jit, donate_argnums=0)
    def compiled(state, data, seed):
        return _placed(mesh, *_one_of_many(one_step, make_batch, mesh, state, data, seed))

    seed_array = put_everywhere(mesh, np.uint32(seed))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        batch = _on_devices(mesh, batch, grad_accum_steps)
        return compiled(state, (batch, preprocessing), seed_array)

    return step


def make_eval_step(
    network: Any,
    *,
    loss: Loss = cross_entropy,
    preprocessing: Preprocessing | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any], Metrics]:
    """Makes the compiled `(variables, batch) -> metrics`; arguments and errors as of `make_train_step`.

    The metrics of several batches are added up by `jax.tree.map(operator.add, one, other)`.
    """
    mesh, model, preprocessing = _taken_apart(network, mesh, preprocessing)
    compiled = compile_evaluation(partial(eval_step, model=model, loss=loss), lambda data, _: _prepared(*data), mesh)

    def step(variables: Any, batch: Any) -> Metrics:
        return compiled(variables, (_on_devices(mesh, batch), preprocessing), 1)

    return step


def _taken_apart(network: Any, mesh: Mesh | None, preprocessing: Preprocessing | None) -> tuple[Mesh, Any, Any]:
    mesh = mesh or make_mesh()
    if isinstance(network, nn.Module):
        return mesh, network, put_everywhere(mesh, preprocessing)
    return mesh, network.model, put_everywhere(mesh, preprocessing or network.preprocessing)


def _on_devices(mesh: Mesh, batch: Any, grad_accum_steps: int = 1) -> Any:
    """A batch, cut over the mesh; of NumPy's arrays each process has its own part."""
    hosts = 1 if isinstance(batch.images, jax.Array) else jax.process_count()
    size = batch.images.shape[0] * hosts
    check_divides(mesh, size, "the batch size", grad_accum_steps=grad_accum_steps)
    place = batch_sharded(mesh)
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, place) if isinstance(leaf, jax.Array) else put_batch(mesh, leaf), batch
    )


def _prepared(batch: Any, preprocessing: Preprocessing | None) -> Any:
    if batch.images.dtype != jnp.uint8:
        return batch
    if preprocessing is None:
        raise ValueError("uint8 images need a pre-processing: give preprocessing=, or float images")
    return batch._replace(images=preprocessing(batch.images))


def compile_steps(
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    make_batch: Callable[[Any, jax.Array, jax.Array], Any],
    mesh: Mesh,
) -> Any:
    """Makes `(state, data, seed, steps) -> (state, metrics)`: `steps` updates in one dispatch.

    The state is donated. Metrics hold one value for each step and stay on the device. Batches are made inside, so that
    the host does nothing between two steps. The seed is a uint32 array: another seed is the same program.

    Args:
      train_step: (state, batch) -> (state, metrics); pure.
      make_batch: (data, seed, step) -> batch; pure. The data are a whole data set, or one streamed batch for one step.
      mesh: that the batches and the state are cut over.
    """

    @partial(jax.jit, static_argnums=3, donate_argnums=0)
    def train_steps(state, data, seed, steps):
        def body(state, _):
            return _one_of_many(train_step, make_batch, mesh, state, data, seed)

        # A single step is written out: with unroll=1 JAX would leave a loop of a single turn.
        return _placed(mesh, *jax.lax.scan(body, state, None, length=steps, unroll=2 if steps == 1 else 1))

    return train_steps


def _one_of_many(train_step: Any, make_batch: Any, mesh: Mesh, state: TrainState, data: Any, seed: jax.Array) -> Any:
    batch = make_batch(data, seed, state.step)
    return train_step(state, jax.lax.with_sharding_constraint(batch, batch_sharded(mesh)))


def _placed(mesh: Mesh, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    return jax.lax.with_sharding_constraint((state, metrics), (state_shardings(mesh, state), replicated(mesh)))


def compile_evaluation(
    eval_step: Callable[[Any, Any], Metrics], make_batch: Callable[[Any, jax.Array], Any], mesh: Mesh
) -> Any:
    """Makes `(variables, data, batches) -> metrics`: totals over so many batches, on every device.

    Args:
      eval_step: (variables, batch) -> metrics; pure.
      make_batch: (data, index) -> batch; pure. The data are a whole split, or one streamed batch.
      mesh: that the batches are cut over.
    """

    @partial(jax.jit, static_argnums=2, out_shardings=replicated(mesh))
    def evaluate(variables, data, batches):
        def metrics_of(index):
            batch = jax.lax.with_sharding_constraint(make_batch(data, index), batch_sharded(mesh))
            return eval_step(variables, batch)

        def add(totals, index):
            return jax.tree.map(jnp.add, totals, metrics_of(index)), None

        if batches == 1:
            return metrics_of(jnp.zeros((), jnp.int32))
        return jax.lax.scan(add, zeros_like(jax.eval_shape(metrics_of, jnp.int32(0))), jnp.arange(batches))[0]

    return evaluate
