"""The optimiser and its schedules against plain NumPy loops."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.configs import base, cifar10
from resnet_jax.errors import InputError
from resnet_jax.runs import build
from resnet_jax.training import optimizers


def rates_of(optimizer, errors):
    """The learning rate of each of a run's updates, given each batch's training error."""
    params = {"kernel": jnp.zeros(())}

    def update(state, error):
        _, state = optimizer.update(params, state, params, value=error)
        return state, optimizers.learning_rate(state)

    return np.asarray(jax.lax.scan(update, optimizer.init(params), jnp.asarray(errors, jnp.float32))[1])


def multistep(boundaries, update):
    """Caffe's `multistep` with base_lr 0.1 and gamma 0.1; updates count from 1."""
    return 0.1 * 0.1 ** sum(update > boundary for boundary in boundaries)


@pytest.mark.parametrize("decay_everything", [True, False])
def test_sgd_is_caffes_across_learning_rate_changes(decay_everything):
    rng = np.random.default_rng(0)
    params = {"conv": {"kernel": rng.normal(size=(3, 4))}, "bn": {"scale": rng.normal(size=4), "bias": np.ones(4)}}
    gradients = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params) for _ in range(12)]
    boundaries, momentum, weight_decay = (4, 9), 0.9, 0.05

    optimizer = optimizers.sgd(
        optimizers.piecewise(0.1, boundaries, 0.1), momentum, weight_decay, decay_everything=decay_everything
    )
    ours = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = optimizer.init(ours)
    for gradient in gradients:
        gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradient)
        updates, state = optimizer.update(gradient, state, ours, value=0.5)
        ours = jax.tree.map(jnp.add, ours, updates)

    for layer, name in (("conv", "kernel"), ("bn", "scale"), ("bn", "bias")):
        w, v = params[layer][name], 0.0
        decay = weight_decay if decay_everything or name == "kernel" else 0.0
        for i, gradient in enumerate(gradients):
            v = momentum * v + multistep(boundaries, i + 1) * (gradient[layer][name] + decay * w)
            w = w - v
        np.testing.assert_allclose(ours[layer][name], w, rtol=1e-5, atol=1e-6)


def test_cifar10_drops_after_update_32000_and_48000():
    config = cifar10.get_config()
    config.optimizer.update(momentum=0.0, weight_decay=0.0)
    optimizer = build.optimizer(config, train_images=50_000)
    params = {"kernel": jnp.ones(())}
    fresh = optimizer.init(params)
    for update in (1, 31_999, 32_000, 32_001, 48_000, 48_001, 64_000):
        state = (fresh[0], fresh[1]._replace(step=jnp.asarray(update - 1)), *fresh[2:])
        change, state = optimizer.update(params, state, params, value=0.5)
        rate = {0: 0.1, 1: 0.01, 2: 0.001}[(update > 32_000) + (update > 48_000)]
        assert float(change["kernel"]) == pytest.approx(-rate, rel=1e-6)
        assert float(optimizers.learning_rate(state)) == pytest.approx(rate, rel=1e-6)


def test_warm_up_ends_after_the_first_window_below_80_percent_and_never_returns():
    rng = np.random.default_rng(0)
    means = [0.90, 0.81, 0.79, 0.95, 0.99, 0.5]
    noise = rng.normal(scale=0.05, size=(len(means), 100))
    errors = (np.array(means)[:, None] + noise - noise.mean(1, keepdims=True)).ravel()
    assert (errors[:200] < 0.8).any()  # single batches end nothing
    optimizer = optimizers.sgd(optimizers.piecewise(0.1, (450,), 0.1), 0.9, 0.0, warmup=0.01)
    expected = [0.01 if update <= 300 else multistep((450,), update) for update in range(1, 601)]
    np.testing.assert_allclose(rates_of(optimizer, errors), expected, rtol=1e-6)


def test_plateau_divides_after_patience_epochs_without_a_fall():
    config = base.get_config()
    config.optimizer.update(schedule="plateau", patience=3)
    config.train.batch_size = 10
    # 45 images: 4 batches to an epoch.
    epochs = [0.9, 0.8, 0.85, 0.8, 0.7, 0.7, 0.75, 0.71, 0.9, 0.6, 0.6, 0.6, 0.6, 0.5]
    noise = np.tile([0.05, -0.05, 0.02, -0.02], len(epochs))
    rates = rates_of(build.optimizer(config, train_images=45), np.repeat(epochs, 4) + noise)

    rate, best, waited, expected = 0.1, np.inf, 0, []
    for error in epochs:
        expected += [rate] * 3
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited == 3:
            rate, waited = rate * 0.1, 0
        expected.append(rate)
    assert expected[-1] == pytest.approx(0.001)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@pytest.mark.parametrize(("iterations", "boundaries"), [(64_000, (32_000, 48_000)), (1_001, (500, 750))])
def test_boundaries_default_to_a_half_and_three_quarters(iterations, boundaries):
    config = base.get_config()
    config.train.iterations = iterations
    schedule = build.schedule(config)
    for step in (0, boundaries[0] - 1, boundaries[0], boundaries[1] - 1, boundaries[1], iterations - 1):
        assert float(schedule(step)) == pytest.approx(multistep(boundaries, step + 1), rel=1e-6)


def test_boundaries_and_factor_can_be_given():
    config = base.get_config()
    config.optimizer.update(boundaries=(10,), factor=0.5)
    np.testing.assert_allclose([build.schedule(config)(step) for step in (9, 10, 60_000)], [0.1, 0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "depth", "given", "first_rate"),
    [
        ("cifar_resnet", 20, None, 0.1),
        ("cifar_resnet", 104, None, 0.1),
        ("cifar_resnet", 110, None, 0.01),
        ("cifar_plain", 110, None, 0.01),
        ("cifar_resnet", 1202, None, 0.01),
        ("resnet", 152, None, 0.1),
        ("cifar_resnet", 110, 0.0, 0.1),
        ("cifar_resnet", 20, 0.02, 0.02),
    ],
)
def test_warm_up_is_for_cifar_networks_of_110_layers_and_more(family, depth, given, first_rate):
    config = base.get_config()
    config.model.update(family=family, depth=depth)
    config.optimizer.constant_warmup = given
    assert rates_of(build.optimizer(config, train_images=50_000), [0.9]) == pytest.approx([first_rate], rel=1e-6)


FACTORS = {"stem": 0.1, "stage1": 0.5, "fc": 2.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda scale, factors: optimizers.sgd(
            optimizers.piecewise(0.1 * scale, (4,), 0.1), weight_decay=0.05, rate_factors=factors
        ),
        lambda scale, factors: optimizers.sgd(
            optimizers.piecewise(0.1 * scale, (4,), 0.1), weight_decay=0.05, momentum_form="torch", rate_factors=factors
        ),
        lambda scale, factors: optimizers.sgd(0.1 * scale, trust_coefficient=0.01, rate_factors=factors),
        lambda scale, factors: optax.chain(
            optax.adamw(0.1 * scale, weight_decay=0.05), optimizers.scaled_by_part(factors or {})
        ),
    ],
    ids=["caffe", "torch", "lars", "adamw"],
)
def test_a_part_with_a_factor_is_trained_as_with_a_rate_of_its_own(make):
    """Its decay, too."""
    rng = np.random.default_rng(0)
    names = {"conv1": 0.1, "bn1": 0.1, "stage1": 0.5, "stage2": 1.0, "fc": 2.0}
    params = {name: {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)} for name in names}

    def train(optimizer, params):
        state, gradients = optimizer.init(params), np.random.default_rng(1)
        for _ in range(8):
            drawn = {name: gradients.normal(size=(3, 4)) for name in names}
            gradient = {name: {"kernel": jnp.asarray(drawn[name], jnp.float32)} for name in params}
            updates, state = optimizers.promoting(optimizer.update)(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    together = train(make(1.0, FACTORS), params)
    for name, factor in names.items():
        alone = train(make(factor, None), {name: params[name]})
        np.testing.assert_allclose(together[name]["kernel"], alone[name]["kernel"], rtol=1e-5, atol=1e-6)


def test_factors_of_no_part_are_refused_by_name():
    params = {"conv1": jnp.ones(1), "bn1": jnp.ones(1), "stage1": jnp.ones(1), "fc": jnp.ones(1)}
    assert optimizers.sgd(0.1).init(params)[:4] == optimizers.sgd(0.1, rate_factors={"stem": 0.0}).init(params)[:4]
    with pytest.raises(InputError, match=r"rate factor of stage2, head, but .* trained are stem, stage1, fc$"):
        optimizers.scaled_by_part({"stem": 1.0, "stage2": 1.0, "head": 1.0}).init(params)
    for factor in (-1.0, np.inf, np.nan):
        with pytest.raises(InputError, match=r"rate factor of fc is .* not negative"):
            optimizers.scaled_by_part({"fc": factor})


def test_what_is_no_rate_is_refused():
    # Without the checks of types that tests put around functions.
    sgd, piecewise, ramped, scaled_by_part = map(
        inspect.unwrap, (optimizers.sgd, optimizers.piecewise, optimizers.ramped, optimizers.scaled_by_part)
    )
    sgd(0.0), sgd(jnp.float32(0.1), 0, np.float32(0)), sgd(np.array(0.1), warmup=0.01, trust_coefficient=1.0)
    jax.eval_shape(lambda rate: sgd(rate).init({"kernel": jnp.zeros(1)}), jnp.float32(0.1))
    for call, message in (
        (lambda: sgd("0.1"), "^learning_rate is '0.1', but it must be a number that is not negative, or a schedule"),
        (lambda: sgd([0.1, 0.01]), r"^learning_rate is \[0.1, 0.01\], but it must be"),
        (lambda: sgd(-0.1), "^learning_rate is -0.1"),
        (lambda: sgd(float("nan")), "^learning_rate is nan"),
        (lambda: sgd(0.1, "0.9"), "^momentum is '0.9', but it must be a number that is not negative$"),
        (lambda: sgd(0.1, weight_decay=-1e-4), "^weight_decay is -0.0001"),
        (lambda: sgd(0.1, warmup="no"), "^warmup is 'no'"),
        (
            lambda: sgd(0.1, momentum_form="nesterov"),
            "^momentum_form is 'nesterov', but it must be 'caffe' or 'torch'$",
        ),
        (lambda: scaled_by_part({"stem": "0.1"}), "^the rate factor of stem is '0.1'"),
        (lambda: piecewise("0.1", (10,), 0.1), "^the learning rate is '0.1'"),
        (lambda: piecewise(0.1, 10, 0.1), r"^boundaries is 10, but it must be iterations, such as \(32000"),
        (lambda: piecewise(0.1, (0.5, 0.75), 0.1), "^boundaries is .0.5, 0.75."),
        (lambda: ramped(0.1, 10), "^the schedule is 0.1, but it must be a function"),
    ):
        with pytest.raises(InputError, match=message):
            call()
