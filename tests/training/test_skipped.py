"""Steps that are skipped: schedules go on over them, plateaus and warm-ups do not see them, a stop counts them."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.data.batch import Batch
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import DivergedError
from resnet_jax.runs.loop import train
from resnet_jax.training import optimizers
from resnet_jax.training.state import create_state
from resnet_jax.training.step import train_step
from small_run import lines_of, saved_steps, small_config, train_until


class SumModel(nn.Module):
    """Logits are weights plus the image; statistics are the images' largest number, squared."""

    axis_name: Any = None
    bn_group_size: Any = None

    @nn.compact
    def __call__(self, images, train):
        largest = self.variable("batch_stats", "largest", jnp.zeros, ())
        largest.value = jnp.square(images.max())
        return self.param("weights", nn.initializers.zeros, (4,))[None] + images[:, 0, 0]


GOOD, NAN, OVERFLOW = 0.0, jnp.nan, 1e30


def rates_and_state(optimizer, pixels):
    """The learning rate after each of some steps, on images of these pixels, and the last state."""
    mesh, model = make_mesh(1), SumModel()
    state = create_state(model, optimizer, 0, (1, 1, 4), mesh)
    step = partial(train_step, model=model, optimizer=optimizer, mesh=mesh, skip_nonfinite=True)
    # Half of the labels are the class that a tie is taken for.
    labels = jnp.array([0, 3])

    def one(state, pixel):
        # One number for all classes changes no loss.
        state, metrics = step(state, Batch(jnp.broadcast_to(pixel, (2, 1, 1, 4)), labels, jnp.ones(2)))
        return state, (optimizers.learning_rate(state.opt_state), metrics["loss"].total, state.skipped)

    return *jax.device_get(jax.jit(partial(jax.lax.scan, one))(state, jnp.array(pixels))[1]), jax.device_get(
        jax.jit(lambda state: jax.lax.scan(one, state, jnp.array(pixels))[0])(state)
    )


def test_a_drop_comes_at_its_iteration_whatever_was_skipped_before():
    optimizer = optimizers.sgd(optimizers.piecewise(0.1, (3, 5), 0.1), 0.9, 0.0)
    pixels = [GOOD, NAN, GOOD, NAN, GOOD, GOOD, GOOD]
    rates, losses, skipped, state = rates_and_state(optimizer, pixels)
    # The fourth step is skipped, and still the first one of its rate.
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(losses), np.isnan(pixels))
    assert skipped.tolist() == [0, 1, 0, 1, 0, 0, 0]
    assert int(state.step) == 7


def test_a_ramp_goes_on_over_skipped_steps():
    optimizer = optimizers.sgd(optimizers.ramped(optax.constant_schedule(0.4), 4), 0.9, 0.0)
    rates, *_ = rates_and_state(optimizer, [GOOD, NAN, NAN, GOOD, GOOD])
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)


def test_steps_in_a_row_are_counted():
    optimizer = optimizers.sgd(optax.constant_schedule(0.1), 0.9, 0.0)
    _, _, skipped, _ = rates_and_state(optimizer, [NAN, NAN, GOOD, NAN, NAN, NAN])
    assert skipped.tolist() == [1, 2, 0, 1, 2, 3]


def test_a_running_statistic_that_is_not_finite_is_a_bad_step():
    """The loss is finite, and so are the gradients."""
    optimizer = optimizers.sgd(optax.constant_schedule(0.1), 0.9, 0.0)
    _, losses, skipped, state = rates_and_state(optimizer, [GOOD, OVERFLOW, GOOD])
    assert skipped.tolist() == [0, 1, 0]
    assert np.isnan(losses).tolist() == [False, True, False]
    assert state.batch_stats["largest"] == 0


@pytest.mark.parametrize("bad", [NAN, OVERFLOW])
def test_plateau_momentum_and_warm_up_are_as_without_the_skipped_steps(bad, monkeypatch):
    monkeypatch.setattr(optimizers, "WARMUP_WINDOW", 3)
    optimizer = optimizers.sgd(
        optax.constant_schedule(0.1),
        momentum=0.9,
        weight_decay=0.01,
        warmup=0.05,
        plateau=optax.contrib.reduce_on_plateau(factor=0.3, patience=2, accumulation_size=2),
    )
    with_bad, _, _, state = rates_and_state(
        optimizer, [bad, GOOD, bad, bad, GOOD, GOOD, bad, GOOD, GOOD, GOOD, GOOD, bad]
    )
    without, _, _, other = rates_and_state(optimizer, [GOOD] * 7)
    np.testing.assert_array_equal(with_bad[[1, 4, 5, 7, 8, 9, 10]], without)
    assert len(set(without.tolist())) == 3  # the warm-up has ended and the plateau has been met
    for name in ("params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(other, name))
    assert np.isfinite(state.opt_state[2].avg_value)


# The rate after 30 iterations is beyond all measure; from iteration 32 on all steps are bad.
EXPLOSION = {
    "optimizer.boundaries": (30,),
    "optimizer.factor": 1e30,
    "train.max_skipped_steps": 5,
    "train.checkpoint_every": 1,
    "train.log_every": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(34,), (33, 36)])
def test_a_run_that_was_interrupted_stops_at_the_same_bad_step(tmp_path, stops):
    with pytest.raises(DivergedError, match="after 5 others in a row") as uninterrupted:
        train(small_config(EXPLOSION), tmp_path / "whole")
    for stop in stops:
        train_until(stop, small_config(EXPLOSION), tmp_path / "run")
        assert saved_steps(tmp_path / "run")[-1] == stop
    with pytest.raises(DivergedError, match="after 5 others in a row") as interrupted:
        train(small_config(EXPLOSION), tmp_path / "run")
    assert str(interrupted.value).replace("/run/", "/whole/") == str(uninterrupted.value)
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
