"""The training and the evaluation step: pure functions of a state, or of variables, and a batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec as P

from resnet_jax.distributed.mesh import AXES, fsdp_specs, gather, reduce_scatter
from resnet_jax.models.layers import bn_groups
from resnet_jax.training import optimizers
from resnet_jax.training.losses import Loss, cross_entropy, examples
from resnet_jax.training.metrics import Mean, Metrics
from resnet_jax.training.state import TrainState, trained


def train_step(
    state: TrainState,
    batch: Any,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    loss: Loss = cross_entropy,
    grad_accum_steps: int = 1,
    skip_nonfinite: bool = False,
    ema_decay: float | None = None,
) -> tuple[TrainState, Metrics]:
    """One update from one batch, sharded over the mesh, whose size changes nothing but rounding.

    Every device computes the gradients of its own images, and one sum over the devices ends the backward pass. Left to
    the compiler, that sum would be taken block by block inside the scans, and again for each microbatch.

    Args:
      state: sharded as `state_shardings` says.
      batch: a `Batch`, or a named tuple of one's own; its `images` go into the model, all of it into the loss.
      model: a Linen module that is called with (images, train); its batch norms' statistics are "batch_stats". They
        are those of all devices only where it has a field `axis_name`, as ours have; else each device has its own.
        What it names in `frozen` and `frozen_statistics`, as a `ResNet` with `freeze` does, stays as it is.
      optimizer: any one of Optax, for the parameters that are trained. It is given `value`, the batch's "error" (its
        loss, where the loss has no such metric), and `step`, the state's.
      mesh: the devices.
      loss: what is minimised, see `losses`.
      grad_accum_steps: microbatches that follow one another; the update is that of all of them.
      skip_nonfinite: makes no update where the loss, a gradient or a running statistic is not finite. Such a step
        counts for schedules, and for nothing else of the optimiser (see `optimizers.skipped`); its loss is NaN.
      ema_decay: keeps averages of the variables in `state.ema`: average <- decay average + (1 - decay) variable.

    Returns:
      The next state, and the metrics: "loss", those of the loss, and "learning_rate" where the optimiser has one (see
      `optimizers.learning_rate`).

    Raises:
      ValueError: there is an ema_decay, and the state keeps no averages; or the state was made for another optimiser,
        or for a network of which other parts are frozen.
    """
    gradients, batch_stats, metrics = _gradients(state, batch, model, mesh, loss, grad_accum_steps)
    reported = metrics.get("error", metrics["loss"])
    update = optimizers.promoting(optax.with_extra_args_support(optimizer).update)
    value, params = reported.total / reported.count, trained(model, state.variables)["params"]
    if jax.tree.structure(jax.eval_shape(optimizer.init, params)) != jax.tree.structure(state.opt_state):
        raise ValueError(
            "the state is of another optimizer, or other parts of its network were frozen: make it with create_state"
        )
    updates, opt_state = update(gradients, state.opt_state, params, value=value, step=state.step)
    new = TrainState(
        state.step + 1,
        **_with(state.variables, {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}),
        opt_state=opt_state,
        ema=state.ema,
    )
    if ema_decay is not None:
        if state.ema is None:
            raise ValueError("ema_decay needs a state that keeps averages: create_state(…, ema=True)")
        averages = jax.tree.map(
            lambda old, now: ema_decay * old + (1 - ema_decay) * now,
            trained(model, state.ema),
            trained(model, new.variables),
        )
        new = dataclasses.replace(new, ema=_with(state.ema, averages))
    if skip_nonfinite:
        finite = jnp.isfinite(metrics["loss"].total)
        for leaf in jax.tree.leaves((gradients, batch_stats)):
            finite &= jnp.isfinite(leaf).all()
        kept = dataclasses.replace(
            state, step=new.step, opt_state=optimizers.skipped(state.opt_state, opt_state), skipped=state.skipped + 1
        )
        new = jax.tree.map(lambda made, without: jnp.where(finite, made, without), new, kept)
        metrics["loss"] = Mean(jnp.where(finite, metrics["loss"].total, jnp.nan), metrics["loss"].count)
    rate = optimizers.learning_rate(new.opt_state)
    return new, metrics if rate is None else {**metrics, "learning_rate": Mean(rate, jnp.ones_like(rate))}


def eval_step(variables: Any, batch: Any, *, model: nn.Module, loss: Loss = cross_entropy) -> Metrics:
    """The metrics of one batch, with running statistics: "loss" and those of the loss."""
    return compute_metrics(loss, model.apply(variables, batch.images, train=False), batch)[1]


def compute_metrics(loss: Loss, outputs: Any, batch: Any) -> tuple[jax.Array, Metrics]:
    """The summed loss and the metrics of a model's outputs, which the loss is given in float32 at least."""
    outputs = jax.tree.map(lambda leaf: leaf.astype(np.promote_types(leaf.dtype, jnp.float32)), outputs)
    total, metrics = loss(outputs, batch)
    means = {"loss": (total, examples(batch)), **metrics}
    return total, {name: Mean(*(jnp.asarray(part, float) for part in pair)) for name, pair in means.items()}


def _gradients(
    state: TrainState, batch: Any, model: Any, mesh: Mesh, loss: Loss, grad_accum_steps: int
) -> tuple[Any, Any, Metrics]:
    """Gradients of the mean loss, new running statistics, and metrics; of what is frozen there are none."""
    specs = fsdp_specs(mesh, state.params)
    trained_specs = trained(model, {"params": specs})["params"]
    if hasattr(model, "axis_name"):
        model = model.clone(axis_name=AXES)

    def total_loss(params: Any, variables: Any, batch: Any) -> tuple[jax.Array, Any]:
        outputs, updated = model.apply(
            _with(variables, {"params": params}), batch.images, train=True, mutable=["batch_stats"]
        )
        total, metrics = compute_metrics(loss, outputs, batch)
        return total, (trained(model, {"batch_stats": {}, **updated})["batch_stats"], metrics)

    def on_one_device(params: Any, batch_stats: Any, batch: Any) -> tuple[Any, Any, Metrics]:
        variables = {"params": gather(specs, params), "batch_stats": batch_stats}
        params = trained(model, variables)["params"]

        gradients_of = jax.grad(total_loss, has_aux=True)
        if grad_accum_steps == 1:
            found = gradients_of(params, variables, batch)
        else:
            group = getattr(model, "bn_group_size", None) if trained(model, variables)["batch_stats"] else None
            images = len(batch.images) // grad_accum_steps
            batches = microbatches(batch, grad_accum_steps, images // bn_groups(images, 1, group)[0] if group else 1)
            found = add_up(lambda batch: gradients_of(params, variables, batch), batches)
        everywhere = jax.tree.map(lambda _: P(), found[1])
        gradients, (batch_stats, metrics) = reduce_scatter((trained_specs, everywhere), found)
        count = metrics["loss"].count
        gradients = jax.tree.map(lambda gradient: gradient / count.astype(gradient.dtype), gradients)
        # Every microbatch began with the same running statistics: their mean is that of the whole batch.
        batch_stats = jax.tree.map(lambda total: total / (mesh.size * grad_accum_steps), batch_stats)
        return gradients, batch_stats, metrics

    mapped = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(specs, P(), P(AXES)), out_specs=(trained_specs, P(), P()), check_vma=False
    )
    return mapped(state.params, state.batch_stats, batch)


def _with(variables: Any, changed: dict[str, Any]) -> dict[str, Any]:
    """The variables, of which some have changed."""
    return {name: {**each, **changed.get(name, {})} for name, each in variables.items()}


def add_up(function: Callable[[Any], Any], inputs: Any) -> Any:
    """The sum of a function's results, trees of arrays, over the leading axis of its inputs."""

    def add(totals: Any, each: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, totals, function(each)), None

    shapes = jax.eval_shape(lambda inputs: function(jax.tree.map(lambda leaf: leaf[0], inputs)), inputs)
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, shapes), inputs)[0]


def microbatches(batch: Any, count: int, bn_group_size: int) -> Any:
    """A device's images as (microbatches, images, …).

    Batch-norm groups stay whole. Microbatch i has every `count`-th group from the i-th on, so that it holds the same
    images on any number of devices.
    """

    def split(array: jax.Array) -> jax.Array:
        groups = array.reshape(-1, count, bn_group_size, *array.shape[1:])
        return groups.swapaxes(0, 1).reshape(count, -1, *array.shape[1:])

    return jax.tree.map(split, batch)
