"""The training and evaluation steps: pure functions, compiled with shardings, many steps to a dispatch."""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from resnet_jax import rng
from resnet_jax.data.augment import augment_photographs
from resnet_jax.data.batch import Batch
from resnet_jax.data.pipeline import Augmentation, eval_batch, train_batch
from resnet_jax.sharding import AXES, batch_sharded, fsdp_specs, gather, replicated, sum_and_cut
from resnet_jax.training import schedules
from resnet_jax.training.state import TrainState, state_shardings


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
    weights = jnp.ones(batch.labels.shape) if batch.weights is None else batch.weights
    return Metrics((losses * weights).sum(), (errors * weights).sum(), weights.sum())


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    accumulate: int = 1,
    skip_bad: bool = False,
) -> tuple[TrainState, Metrics]:
    """One update from one batch. Pure; the batch is cut over the mesh, whose size changes nothing but rounding.

    Every device computes the gradients of its own images, and one sum over the devices ends the backward pass. Left to
    the compiler, that sum would be taken block by block inside the scans, and again for each part of a batch that is
    accumulated.

    Args:
      state, batch: of the step.
      model, optimizer: see `build`.
      mesh: that the batch is cut over, and the state over its axis "fsdp".
      accumulate: parts that the batch is cut into, one after another; the update is that of all of them.
      skip_bad: makes no update where the loss, a gradient or a running statistic is not finite. Such a step counts for
        schedules, and for nothing else of the optimiser (see `schedules.scheduled_learning_rate`); its loss is NaN.
    """
    gradients, batch_stats, metrics = _gradients(state, batch, model, mesh, accumulate)
    error = metrics.errors / metrics.count
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, value=error, step=state.step)
    new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), batch_stats, opt_state)
    if skip_bad:
        finite = jnp.isfinite(metrics.loss)
        for leaf in jax.tree.leaves((gradients, batch_stats)):
            finite &= jnp.isfinite(leaf).all()
        opt_state = schedules.skipped(state.opt_state, opt_state)
        kept = TrainState(new.step, state.params, state.batch_stats, opt_state, state.skipped + 1)
        new = jax.tree.map(lambda made, without: jnp.where(finite, made, without), new, kept)
        metrics = Metrics(jnp.where(finite, metrics.loss, jnp.nan), metrics.errors, metrics.count)
    return new, metrics


def _gradients(state: TrainState, batch: Batch, model: Any, mesh: Mesh, accumulate: int) -> tuple[Any, Any, Metrics]:
    """Gradients of the mean loss, new running statistics, and metrics."""
    specs = fsdp_specs(mesh, state.params)
    model = model.clone(axis_name=AXES)

    def total_loss(params: Any, batch_stats: Any, batch: Batch) -> tuple[jax.Array, Any]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, batch.images, train=True, mutable=["batch_stats"]
        )
        metrics = measure(logits, batch)
        return metrics.loss, (updated["batch_stats"], metrics)

    def on_one_device(params: Any, batch_stats: Any, batch: Batch) -> tuple[Any, Any, Metrics]:
        params = gather(specs, params)

        def part(totals: Any, batch: Batch) -> tuple[Any, None]:
            found = jax.grad(total_loss, has_aux=True)(params, batch_stats, batch)
            return jax.tree.map(jnp.add, totals, found), None

        if accumulate == 1:
            found = jax.grad(total_loss, has_aux=True)(params, batch_stats, batch)
        else:
            parts = _in_parts(batch, accumulate, model.group_size or 1)
            zeros = jax.tree.map(jnp.zeros_like, (params, (batch_stats, Metrics(*[jnp.zeros(())] * 3))))
            found, _ = jax.lax.scan(part, zeros, parts)
        everywhere = jax.tree.map(lambda _: P(), found[1])
        gradients, (batch_stats, metrics) = sum_and_cut((specs, everywhere), found)
        gradients = jax.tree.map(lambda gradient: gradient / metrics.count.astype(gradient.dtype), gradients)
        # Every part of every device began with the same running statistics: their mean is that of the whole batch.
        batch_stats = jax.tree.map(lambda total: total / (mesh.size * accumulate), batch_stats)
        return gradients, batch_stats, metrics

    mapped = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(specs, P(), P(AXES)), out_specs=(specs, P(), P()), check_vma=False
    )
    return mapped(state.params, state.batch_stats, batch)


def _in_parts(batch: Batch, parts: int, group_size: int) -> Batch:
    """A device's images as (parts, images / parts, …): statistic groups stay whole, and are dealt out like cards, so
    that a part holds the same images on any number of devices.
    """

    def cut(array: jax.Array) -> jax.Array:
        dealt = array.reshape(-1, parts, group_size, *array.shape[1:])
        return dealt.swapaxes(0, 1).reshape(parts, -1, *array.shape[1:])

    return jax.tree.map(cut, batch)


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
    accumulate: int = 1,
    skip_bad: bool = False,
) -> Any:
    """Makes `(state, split, preprocessing, seed, steps) -> (state, metrics, rates)`: `steps` updates in one dispatch.

    The state is donated. Metrics and learning rates hold one value for each step and stay on the device. Batches are
    made inside, so that the host does nothing between two steps. The seed is a uint32 array: another seed is the same
    program.
    """

    def one_step(split, preprocessing, seed, state, _):
        batch = train_batch(split, preprocessing, augmentation, seed, state.step, batch_size)
        batch = jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))
        state, metrics = train_step(
            state, batch, model=model, optimizer=optimizer, mesh=mesh, accumulate=accumulate, skip_bad=skip_bad
        )
        return state, (metrics, schedules.learning_rate(state.opt_state))

    @partial(jax.jit, static_argnums=4, donate_argnums=0)
    def train_steps(state, split, preprocessing, seed, steps):
        body = partial(one_step, split, preprocessing, seed)
        # A single step is written out: with unroll=1 JAX would leave a loop of a single turn.
        state, (metrics, rates) = jax.lax.scan(body, state, None, length=steps, unroll=2 if steps == 1 else 1)
        return _placed(mesh, state), *jax.lax.with_sharding_constraint((metrics, rates), replicated(mesh))

    return train_steps


def compile_stream_step(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    *,
    noise: float,
    mirrored: bool,
    accumulate: int = 1,
    skip_bad: bool = False,
) -> Any:
    """Makes `(state, images, labels, preprocessing, seed) -> (state, metrics, rate)`: one update from photographs.

    The state is donated. `images` are uint8 windows, cut over the mesh as `labels` are; the other arguments and the
    augmentation are as of `compile_train_steps` and `augment.augment_photographs`.
    """

    @partial(jax.jit, donate_argnums=0)
    def stream_step(state, images, labels, preprocessing, seed):
        key = jax.random.fold_in(rng.stream(seed, "augmentation"), state.step)
        augmented = augment_photographs(key, images, preprocessing, noise, mirrored)
        batch = Batch(augmented, labels, jnp.ones(labels.shape))
        batch = jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))
        state, metrics = train_step(
            state, batch, model=model, optimizer=optimizer, mesh=mesh, accumulate=accumulate, skip_bad=skip_bad
        )
        rate = schedules.learning_rate(state.opt_state)
        return _placed(mesh, state), *jax.lax.with_sharding_constraint((metrics, rate), replicated(mesh))

    return stream_step


def _placed(mesh: Mesh, state: TrainState) -> TrainState:
    return jax.lax.with_sharding_constraint(state, state_shardings(mesh, state))


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
