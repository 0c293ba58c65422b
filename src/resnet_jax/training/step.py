"""The training and evaluation steps: pure functions, compiled with shardings, many steps to a dispatch."""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from resnet_jax import rng
from resnet_jax.data.augment import augment_photographs
from resnet_jax.data.pipeline import Augmentation, Batch, eval_batch, train_batch
from resnet_jax.sharding import batch_sharded, replicated
from resnet_jax.training import schedules
from resnet_jax.training.state import TrainState


@flax.struct.dataclass
class Metrics:
    """Totals over examples, float32 scalars; one for each step where steps are scanned.

    Attributes:
      loss: summed cross-entropy.
      errors: examples whose largest logit is another class's.
      count: examples.
    """

    loss: jax.Array
    errors: jax.Array
    count: jax.Array


def measure(logits: jax.Array, batch: Batch) -> Metrics:
    """Summed cross-entropy and top-1 errors of logits (batch, classes), in float32 at least."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    errors = (logits.argmax(-1) != batch.labels).astype(jnp.float32)
    return Metrics((losses * batch.weights).sum(), (errors * batch.weights).sum(), batch.weights.sum())


def train_step(
    state: TrainState, batch: Batch, *, model: nn.Module, optimizer: optax.GradientTransformationExtraArgs
) -> tuple[TrainState, Metrics]:
    """One update from one batch. Pure: any sharding, any number of devices."""

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits: Any
        logits, updated = model.apply(variables, batch.images, train=True, mutable=["batch_stats"])
        metrics = measure(logits, batch)
        return metrics.loss / metrics.count, (metrics, updated["batch_stats"])

    gradients, (metrics, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    error = metrics.errors / metrics.count
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, value=error)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def eval_step(variables: Any, batch: Batch, *, model: nn.Module) -> Metrics:
    """The metrics of one batch with running statistics."""
    logits: Any = model.apply(variables, batch.images, train=False)
    return measure(logits, batch)


def compile_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    *,
    batch_size: int,
    augmentation: Augmentation,
) -> Any:
    """Makes `(state, split, preprocessing, seed, steps) -> (state, metrics, rates)`: `steps` updates in one dispatch.

    The state is donated. Metrics and learning rates hold one value for each step and stay on the device. Batches are
    made inside, so that the host does nothing between two steps. The seed is a uint32 array: another seed is the same
    program.
    """

    def one_step(split, preprocessing, seed, state, _):
        batch = train_batch(split, preprocessing, augmentation, seed, state.step, batch_size)
        batch = jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))
        state, metrics = train_step(state, batch, model=model, optimizer=optimizer)
        return state, (metrics, schedules.learning_rate(state.opt_state))

    @partial(jax.jit, static_argnums=4, donate_argnums=0, out_shardings=replicated(mesh))
    def train_steps(state, split, preprocessing, seed, steps):
        body = partial(one_step, split, preprocessing, seed)
        # A single step is written out: with unroll=1 JAX would leave a loop of a single turn.
        state, (metrics, rates) = jax.lax.scan(body, state, None, length=steps, unroll=2 if steps == 1 else 1)
        return state, metrics, rates

    return train_steps


def compile_stream_step(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    *,
    noise: float,
    mirrored: bool,
) -> Any:
    """Makes `(state, images, labels, preprocessing, seed) -> (state, metrics, rate)`: one update from photographs.

    The state is donated. `images` are uint8 windows, cut over the mesh as `labels` are; the other arguments and the
    augmentation are as of `compile_train_steps` and `augment.augment_photographs`.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=replicated(mesh))
    def stream_step(state, images, labels, preprocessing, seed):
        key = jax.random.fold_in(rng.stream(seed, "augmentation"), state.step)
        augmented = augment_photographs(key, images, preprocessing, noise, mirrored)
        batch = Batch(augmented, labels, jnp.ones(labels.shape))
        batch = jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))
        state, metrics = train_step(state, batch, model=model, optimizer=optimizer)
        return state, metrics, schedules.learning_rate(state.opt_state)

    return stream_step


def compile_stream_eval(model: nn.Module, mesh: Mesh) -> Any:
    """Makes `(variables, batch, preprocessing) -> metrics`, of a `Batch` whose images are uint8 and cut over the
    mesh.
    """

    @partial(jax.jit, out_shardings=replicated(mesh))
    def stream_eval(variables, batch, preprocessing):
        return eval_step(variables, batch._replace(images=preprocessing(batch.images)), model=model)

    return stream_eval


def compile_evaluate(model: nn.Module, mesh: Mesh, *, batch_size: int) -> Any:
    """Makes `(variables, split, preprocessing) -> metrics`: totals over a whole split, each example counted exactly
    once.

    The batch size is rounded up to a multiple of the devices.
    """
    batch_size += -batch_size % mesh.size

    @partial(jax.jit, out_shardings=replicated(mesh))
    def evaluate(variables, split, preprocessing):
        def one_batch(totals, index):
            batch = eval_batch(split, preprocessing, index, batch_size)
            batch = jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))
            return jax.tree.map(jnp.add, totals, eval_step(variables, batch, model=model)), None

        batches = -(-len(split) // batch_size)
        totals = Metrics(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
        return jax.lax.scan(one_batch, totals, jnp.arange(batches))[0]

    return evaluate
