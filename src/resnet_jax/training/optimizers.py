"""The paper's optimiser: SGD with momentum, weight decay, and its learning-rate schedules (sections 3.4 and 4.2)."""

import functools
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.core import Tracer

from resnet_jax.errors import InputError
from resnet_jax.models import stacking
from resnet_jax.models.resnet import part_of

# The paper ends the warm-up when "the training error is below 80 %", which took about 400 iterations; the error is
# measured over windows of this many iterations (12,800 images at batch 128: a standard error below half a percent).
WARMUP_WINDOW = 100


class ScheduleState(NamedTuple):
    """State of `scheduled_learning_rate`.

    Attributes:
      step: updates made, int32, which the windows of the warm-up count: less than the run's step where some were
        skipped.
      learning_rate: of the last step, skipped or not.
      warming_up: whether the warm-up goes on.
      window_error: of this window's updates, a part of their mean.
    """

    step: jax.Array
    learning_rate: jax.Array
    warming_up: jax.Array
    window_error: jax.Array


def scheduled_learning_rate(
    schedule: optax.Schedule, warmup: float | None, warmup_until_error: float = 0.8
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by the learning rate of the step, and remembers it for the log.

    Args:
      schedule: step -> learning rate; the update that leads from step k to k + 1 uses `schedule(k)`, so that a drop at
        32,000 is first used by update 32,001, as with Caffe's `multistep`.
      warmup: the learning rate until the training error, averaged over a window of `WARMUP_WINDOW` iterations, falls
        below `warmup_until_error`; then the schedule applies and never the warm-up again (section 4.2, n = 18).
        None for no warm-up.

    The update takes two keyword arguments, as `train_step` gives them: `value`, the batch's training error, without
    which there is no warm-up; and `step`, the run's own: a schedule counts iterations, also those whose updates were
    skipped. A window counts updates that were made, and so do a plateau's epochs: the error of a skipped step is in
    none of them. Without `step` the updates are the steps.
    """

    def init(params):
        del params
        rate = schedule(jnp.zeros((), jnp.int32)) if warmup is None else warmup
        return ScheduleState(
            jnp.zeros((), jnp.int32),
            jnp.asarray(rate, jnp.float32),
            jnp.asarray(warmup is not None),
            jnp.zeros((), jnp.float32),
        )

    def update(updates, state, params=None, *, value=None, step=None, **_):
        del params
        if value is None:
            if warmup is not None:
                raise ValueError("a warm-up ends by the training error: give it as update(…, value=error)")
            value = 0.0
        rate = schedule(state.step if step is None else step)
        if warmup is not None:
            rate = jnp.where(state.warming_up, warmup, rate)
        rate = jnp.asarray(rate, jnp.float32)
        window_error = state.window_error + jnp.asarray(value, jnp.float32) / WARMUP_WINDOW
        at_end = (state.step + 1) % WARMUP_WINDOW == 0
        return jax.tree.map(lambda update: rate.astype(update.dtype) * update, updates), ScheduleState(
            state.step + 1,
            rate,
            state.warming_up & ~(at_end & (window_error < warmup_until_error)),
            jnp.where(at_end, 0.0, window_error),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def skipped(before: Any, after: Any) -> Any:
    """The optimiser's state after a step that makes no update: that `before` it, with the rate of the step.

    The schedule of another optimiser than `sgd` counts its updates, and waits for those that are skipped.
    """
    return jax.tree.map(
        lambda old, new: old._replace(learning_rate=new.learning_rate) if isinstance(old, ScheduleState) else old,
        before,
        after,
        is_leaf=lambda leaf: isinstance(leaf, ScheduleState),
    )


def sgd(
    learning_rate: float | optax.Schedule,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    decay_everything: bool = True,
    warmup: float | None = None,
    plateau: optax.GradientTransformationExtraArgs | None = None,
    trust_coefficient: float | None = None,
    momentum_form: str = "caffe",
    rate_factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and weight decay, the rate inside the momentum as in Caffe, or outside as in Torch and Optax.

    "caffe": v <- momentum v + rate (gradient + weight_decay w); w <- w - v.
    "torch": v <- momentum v + (gradient + weight_decay w); w <- w - rate v.

    Both are the same as long as the rate is. While a warm-up raises it, Caffe's v holds steps of the lower rates of
    before; Goyal et al. (1706.02677, remark 2) keep the rate outside, or correct for that.

    Args:
      learning_rate: of all steps, or a schedule: step -> learning rate.
      momentum, weight_decay: the paper's by default.
      decay_everything: decay biases and batch-norm parameters too (Caffe's default; the paper does not say), or only
        the kernels of convolutions and of the classifier.
      warmup: the paper's constant warm-up, see `scheduled_learning_rate`.
      plateau: scales the rate further, such as `optax.contrib.reduce_on_plateau`.
      trust_coefficient: LARS (1708.03888, equation 6): the gradient of each kernel, weight decay included, is scaled to
        this fraction of the kernel's norm. None for plain SGD.
      momentum_form: "caffe" or "torch".
      rate_factors: of the learning rate by part of the network, see `scaled_by_part`.

    Raises:
      InputError: one of these is of another kind, or negative.
    """
    if not callable(learning_rate):
        _check_numbers(learning_rate=learning_rate)
    optional = {"warmup": warmup, "trust_coefficient": trust_coefficient}
    given = {name: value for name, value in optional.items() if value is not None}
    _check_numbers(momentum=momentum, weight_decay=weight_decay, **given)
    if momentum_form not in ("caffe", "torch"):
        raise InputError(f"momentum_form is {momentum_form!r}, but it must be 'caffe' or 'torch'")
    decay = optax.add_decayed_weights(weight_decay, None if decay_everything else _is_kernel)
    if trust_coefficient is not None:
        decay = optax.chain(decay, layerwise_trust(trust_coefficient))
    if plateau is not None:
        plateau = optax.GradientTransformationExtraArgs(plateau.init, promoting(plateau.update))
    schedule = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
    rate = scheduled_learning_rate(schedule, warmup), plateau or optax.identity()
    trace = optax.trace(momentum)
    ordered = (*rate, trace) if momentum_form == "caffe" else (trace, *rate)
    scaled = () if rate_factors is None else (scaled_by_part(rate_factors),)
    return optax.chain(decay, *ordered, optax.scale(-1.0), *scaled)


def scaled_by_part(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of each part of a network, which is to say its learning rate.

    It stands behind an optimiser: `optax.chain(optax.adamw(1e-3), scaled_by_part({"stem": 0.1}))`. All of an update is
    scaled there, so that what decays the weights has the part's rate, too. `sgd` has both of its forms so: with a
    factor f, "caffe" computes v <- momentum v + f rate (gradient + weight_decay w), "torch" w <- w - f rate v.

    Args:
      factors: by part, such as {"stem": 0.1, "stage1": 0.1, "fc": 10.0}, or by name of other networks' parameters on
        the highest level; 1 where a part has none. With 0 the parameters stay, but gradients are computed and running
        statistics move: what shall not change at all is frozen, see `models.ResNet`.

    Raises:
      InputError: a negative factor; and, from `init`, one of a part that there is not, or that is frozen.

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), scaled_by_part({"stem": 0.5}))
      >>> params = {"conv1": jnp.ones(1), "fc": jnp.ones(1)}
      >>> updates, _ = optimizer.update(params, optimizer.init(params))
      >>> {name: update.tolist() for name, update in updates.items()}
      {'conv1': [-0.5], 'fc': [-1.0]}
    """
    for part, factor in factors.items():
        _check_numbers(**{f"the rate factor of {part}": factor})

    def init(params: Any) -> optax.EmptyState:
        parts = list(dict.fromkeys(map(part_of, params)))
        if unknown := [part for part in factors if part not in parts]:
            raise InputError(
                f"there is a rate factor of {', '.join(unknown)}, but the parts that are trained are {', '.join(parts)}"
            )

        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor_of = {name: float(factors.get(part_of(name), 1.0)) for name in updates}
        return {name: optax.tree.scale(factor_of[name], each) for name, each in updates.items()}, state

    return optax.GradientTransformation(init, update)


def _check_numbers(**given: Any) -> None:
    """Refuses what is no number, or a negative or an infinite one, by its name. It may be an array, also a traced one.

    >>> _check_numbers(momentum="0.9")
    Traceback (most recent call last):
    resnet_jax.errors.InputError: momentum is '0.9', but it must be a number that is not negative
    """
    for name, value in given.items():
        scalar = np.ndim(value) == 0 and isinstance(value, numbers.Real | jax.Array | np.ndarray)
        if not scalar or not (isinstance(value, Tracer) or 0 <= float(value) < math.inf):
            schedule = ", or a schedule: a function of the step" if name == "learning_rate" else ""
            raise InputError(f"{name} is {value!r}, but it must be a number that is not negative{schedule}")


def layerwise_trust(coefficient: float) -> optax.GradientTransformation:
    """Scales the update of each layer's kernel to `coefficient` times the kernel's norm; other updates stay.

    `optax.scale_by_trust_ratio` would take one norm over all the blocks that a stage stacks in one array.
    """

    def scaled(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
        if path[-1] != "kernel":
            return update
        axes = tuple(range(1 if stacking.is_stacked(path) else 0, param.ndim))
        norm, size = (jnp.sqrt(jnp.square(each).sum(axes, keepdims=True)) for each in (param, update))
        return update * jnp.where((norm > 0) & (size > 0), coefficient * norm / jnp.where(size > 0, size, 1.0), 1.0)

    def update(updates, params):
        of: Any = traverse_util.flatten_dict(params)
        return traverse_util.path_aware_map(lambda path, update: scaled(path, update, of[path]), updates)

    return optax.stateless(update)


def promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same where JAX is told to promote no dtype: Optax multiplies whole numbers with fractions."""

    def call(*arguments: Any, **named: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **named)

    return call


def _is_kernel(params):
    return traverse_util.path_aware_map(lambda path, _: path[-1] == "kernel", params)


def piecewise(learning_rate: float, boundaries: tuple[int, ...], factor: float) -> optax.Schedule:
    """`learning_rate`, multiplied by `factor` at each boundary, in iterations."""
    _check_numbers(**{"the learning rate": learning_rate, "the factor": factor})
    if not isinstance(boundaries, Iterable) or not all(isinstance(each, numbers.Integral) for each in boundaries):
        raise InputError(f"boundaries is {boundaries!r}, but it must be iterations, such as (32000, 48000)")
    return promoting(optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor)))


def ramped(schedule: optax.Schedule, iterations: int, start: float | None = None) -> optax.Schedule:
    """The schedule, reached linearly over the first iterations: the warm-up of large batches (1706.02677).

    Args:
      schedule: step -> learning rate.
      iterations: of the ramp.
      start: the rate of the first update; the first one after the ramp has all of the schedule's. None: the first has
        1/iterations of the schedule's, the last one of the ramp all of it.
    """
    if not callable(schedule):
        raise InputError(
            f"the schedule is {schedule!r}, but it must be a function of the step: optax.constant_schedule(0.1)"
        )
    _check_numbers(iterations=iterations)
    if start is None:
        return lambda step: schedule(step) * jnp.minimum(1.0, (step + 1) / iterations)

    def rate(step):
        whole = schedule(step)
        return jnp.where(step < iterations, start + (whole - start) * (step / iterations), whole)

    return rate


def learning_rate(opt_state: Any) -> jax.Array | None:
    """The rate of the last step; None where no part of the optimiser is `scheduled_learning_rate`."""
    kinds = (ScheduleState, optax.contrib.ReduceLROnPlateauState)
    parts = jax.tree.leaves(opt_state, is_leaf=lambda leaf: isinstance(leaf, kinds))
    rates = [part.learning_rate for part in parts if isinstance(part, ScheduleState)]
    scales = [part.scale for part in parts if isinstance(part, optax.contrib.ReduceLROnPlateauState)]
    return functools.reduce(operator.mul, scales, rates[0]) if rates else None
