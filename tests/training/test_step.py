"""The compiled steps: numbers against NumPy, one run on any number of devices, compilations, transfers."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from resnet_jax import models
from resnet_jax.data import small
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.data.resident import Augmentation, eval_batch, train_batch
from resnet_jax.data.small import Split
from resnet_jax.distributed.mesh import batch_sharded, make_mesh, replicated
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import compile_evaluation, compile_steps
from resnet_jax.training.losses import cross_entropy
from resnet_jax.training.state import TrainState, create_state
from resnet_jax.training.step import eval_step, train_step

BATCH = 16
OPTIMIZER = optimizers.sgd(optimizers.piecewise(0.1, (12,), 0.1), momentum=0.9, weight_decay=1e-4)


@cache
def initial_state(dtype):
    """On one device, for all runs: compiled once."""
    state = create_state(small_model(), OPTIMIZER, 3, (8, 8, 1), make_mesh(1))

    def cast(state):
        params, stats = jax.tree.map(lambda leaf: leaf.astype(dtype), (state.params, state.batch_stats))
        return TrainState(state.step, params, stats, OPTIMIZER.init(params))

    return jax.device_get(jax.jit(cast)(state))


def small_model(**fields):
    return models.ResNet((3, 1), (4, 8), False, "cifar", 10, "A", **fields)


class Run:
    """What the loop sets up, on `devices` devices, for a tiny network on the digits."""

    def __init__(self, devices, dtype=jnp.float32, **fields):
        digits = small.load("digits")
        self.mesh = make_mesh(devices)
        self.model = small_model(dtype=dtype, **fields)
        everywhere = replicated(self.mesh)
        self.split = jax.device_put(Split(digits.train.images, digits.train.labels), everywhere)
        self.test = jax.device_put(Split(digits.test.images, digits.test.labels), everywhere)
        self.preprocessing = jax.device_put(Preprocessing(per_pixel_mean(digits.train.images)), everywhere)
        self.state = jax.device_put(initial_state(dtype), everywhere)
        self.seed = jax.device_put(np.uint32(3), everywhere)
        self.train_steps = compile_steps(
            partial(train_step, model=self.model, optimizer=OPTIMIZER, mesh=self.mesh),
            lambda data, seed, step: train_batch(*data, Augmentation(1, True), seed, step, BATCH),
            self.mesh,
        )

    def dispatch(self, steps):
        """Trains; returns the loss of each step."""
        data = self.split, self.preprocessing
        self.state, metrics = self.train_steps(self.state, data, self.seed, steps)
        self.rates = metrics["learning_rate"].total
        return metrics["loss"].total / metrics["loss"].count

    def losses(self):
        """Of 20 steps, in dispatches of 5."""
        return np.concatenate([jax.device_get(self.dispatch(5)) for _ in range(4)])


@pytest.fixture(scope="module")
def runs():
    """After 20 steps in float32, by number of devices: the run and its losses."""
    runs = {devices: Run(devices) for devices in (1, 2, 8)}
    return {devices: (run, run.losses()) for devices, run in runs.items()}


def test_metrics_are_numpys_with_weights():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=20, size=(64, 10)).astype(np.float32)
    logits[0, :2] = 500.0, -500.0
    labels = rng.integers(10, size=64).astype(np.int32)
    weights = rng.integers(2, size=64).astype(np.float32)
    weights[0] = 1.0

    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(64), labels]
    np.testing.assert_allclose(np.exp(-losses), probabilities[np.arange(64), labels])

    batch = Batch(jnp.zeros((64, 8, 8, 1)), jnp.asarray(labels), jnp.asarray(weights))
    loss, metrics = cross_entropy(jnp.asarray(logits), batch, top_k=(5, 20))
    assert float(loss) == pytest.approx((losses * weights).sum(), rel=1e-6)
    top5 = (np.argsort(-logits, 1)[:, :5] != labels[:, None]).all(1)
    wrong = {"error": logits.argmax(1) != labels, "top5_error": top5, "top20_error": np.zeros(64)}
    assert 0 < top5.sum() < wrong["error"].sum()
    assert {name: float(total) for name, (total, _) in metrics.items()} == {
        name: (each * weights).sum() for name, each in wrong.items()
    }
    assert {float(count) for _, count in metrics.values()} == {weights.sum()} != {64}


def test_the_same_run_on_1_2_and_8_devices(runs):
    one, two, eight = (runs[devices][1] for devices in (1, 2, 8))
    assert len(np.unique(one)) == 20
    np.testing.assert_allclose(two, one, rtol=1e-4)
    np.testing.assert_allclose(eight, one, rtol=1e-4)


@pytest.mark.slow
def test_the_same_run_on_1_and_8_devices_in_float64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        one, eight = (Run(devices, jnp.float64).losses() for devices in (1, 8))
    assert one.dtype == np.float64
    assert np.ptp(one) > 0.1
    np.testing.assert_allclose(eight, one, rtol=1e-9)


def test_no_dispatch_compiles_again_or_transfers_anything(runs):
    for run, _ in runs.values():
        compiled = run.train_steps._cache_size()
        with jax.transfer_guard("disallow"):
            run.dispatch(5)
        assert run.train_steps._cache_size() == compiled == 1
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device"):
        jnp.sin(np.ones(3))


def test_five_steps_in_one_dispatch_are_five_dispatches_of_one_step():
    together, apart = Run(1), Run(1)
    losses = together.dispatch(5)
    given = jax.tree.leaves(apart.state)
    rates = []
    for step in range(5):
        assert int(apart.state.step) == step
        np.testing.assert_allclose(apart.dispatch(1), losses[step : step + 1], rtol=1e-5)
        rates.append(apart.rates)
    assert all(leaf.is_deleted() for leaf in given)  # donated
    np.testing.assert_array_equal(np.concatenate(rates), together.rates)
    for one, five in zip(jax.tree.leaves(apart.state), jax.tree.leaves(together.state), strict=True):
        np.testing.assert_allclose(one, five, rtol=1e-4, atol=1e-5)


def test_learning_rate_of_each_step_is_returned():
    run = Run(1)
    rates = np.concatenate([run.dispatch(5) * 0 + run.rates for _ in range(4)])
    np.testing.assert_allclose(rates, [0.1 if step < 12 else 0.01 for step in range(20)], rtol=1e-6)


@pytest.mark.parametrize(("group", "meshes"), [(2, (1, 8)), pytest.param(8, (8,), marks=pytest.mark.slow)])
def test_groups_are_per_device_statistics(group, meshes):
    """A step with groups, on each number of devices, against 16 / group devices with a plain batch norm each."""
    devices = BATCH // group
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(BATCH, 8, 8, 1)), rng.integers(10, size=BATCH)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        plain = Run(devices, jnp.float64)
        params, stats = plain.state.params, plain.state.batch_stats

        def local_step(params, stats, images, labels):
            def loss(params):
                variables = {"params": params, "batch_stats": stats}
                logits, updated = plain.model.apply(variables, images, train=True, mutable=["batch_stats"])
                one_hot = jax.nn.one_hot(labels, 10)
                return -(jax.nn.log_softmax(logits) * one_hot).sum(-1).mean(), updated["batch_stats"]

            (value, updated), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return jax.lax.pmean((value, gradients, updated), "data")

        specs = {"in_specs": (P(), P(), P("data"), P("data")), "out_specs": P()}
        mapped = jax.jit(jax.shard_map(local_step, mesh=plain.mesh, **specs, check_vma=False))
        loss, gradients, updated = mapped(params, stats, images, labels)
        expected = jax.tree.map(
            lambda w, g: np.asarray(w - np.float32(0.1).astype(float) * (g + 1e-4 * w)), params, gradients
        )

        for devices in meshes:
            run = Run(devices, jnp.float64, bn_group_size=group)
            batch = Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(BATCH))
            batch = jax.device_put(batch, batch_sharded(run.mesh))
            state, metrics = jax.jit(partial(train_step, model=run.model, optimizer=OPTIMIZER, mesh=run.mesh))(
                run.state, batch
            )
            assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-12)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), state.params, expected)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), state.batch_stats, updated)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 7), (1, 500), (8, 8), (8, 112)])
def test_evaluation_scores_every_example_exactly_once(runs, devices, batch_size):
    run, _ = runs[devices]
    digits = small.load("digits")
    images = digits.test.images - per_pixel_mean(digits.train.images)
    variables = jax.device_get({"params": run.state.params, "batch_stats": run.state.batch_stats})
    logits = np.asarray(jax.jit(partial(run.model.apply, train=False))(variables, images), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(360), digits.test.labels]

    evaluate = compile_evaluation(
        partial(eval_step, model=run.model), lambda data, index: eval_batch(*data, index, batch_size), run.mesh
    )
    with jax.transfer_guard("disallow"):
        batches = -(-360 // batch_size)
        totals = jax.device_get(evaluate(run.state.variables, (run.test, run.preprocessing), batches))
    assert totals["loss"].count == totals["error"].count == len(digits.test) == 360
    assert totals["error"].total == (logits.argmax(1) != digits.test.labels).sum()
    assert totals["loss"].total == pytest.approx(losses.sum(), rel=1e-5)


@pytest.mark.slow
def test_a_step_in_bfloat16_with_the_imagenet_stem():
    """What accelerators train by default: gradients near those in float32, and a state that stays in float32."""
    random, mesh = np.random.default_rng(0), make_mesh(1)
    images = jnp.asarray(random.normal(size=(8, 64, 64, 3)), jnp.float32)
    batch = Batch(images, jnp.arange(8, dtype=jnp.int32), jnp.ones(8))
    updates, losses = [], []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = models.ResNet((2, 1), (8, 16), True, "imagenet", 10, "B", bn_group_size=4, dtype=dtype)
        state = create_state(model, OPTIMIZER, 3, (64, 64, 3), mesh)
        step = jax.jit(partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh))
        after, metrics = step(state, batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(after.variables)} == {jnp.dtype("float32")}
        moved = jax.tree.map(lambda new, old: np.asarray(new - old).ravel(), after.params, state.params)
        updates.append(np.concatenate(jax.tree.leaves(moved)))
        losses.append(float(metrics["loss"].total))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]
    exact, rounded = updates
    assert np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact)
