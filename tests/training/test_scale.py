"""What lets a step grow: accumulated batches, recomputed blocks, cut parameters, LARS, and steps that are left out."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import models, sharding
from resnet_jax.data.pipeline import Batch
from resnet_jax.training import schedules
from resnet_jax.training.state import TrainState, abstract_state, create_state, state_shardings
from resnet_jax.training.step import train_step

OPTIMIZER = schedules.sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=1e-4)
BATCH = 32
BATCH_OF_128 = (((128, 32, 32, 3), jnp.float32), ((128,), jnp.int32), ((128,), jnp.float32))


def batch_on(mesh, dtype=np.float64, bad=None):
    """32 images of noise; the pixels of image `bad` are infinite."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(BATCH, 8, 8, 3)).astype(dtype), rng.integers(10, size=BATCH)
    if bad is not None:
        images[bad] = np.inf
    return sharding.put_batch(mesh, Batch(images, labels.astype(np.int32), np.ones(BATCH, dtype)))


def state_on(mesh, model, dtype=jnp.float64, optimizer=OPTIMIZER):
    state = create_state(model, optimizer, 3, (8, 8, 3), mesh)
    params, stats = jax.tree.map(lambda leaf: leaf.astype(dtype), (state.params, state.batch_stats))
    state = TrainState(state.step, params, stats, optimizer.init(params))
    return jax.device_put(state, state_shardings(mesh, state))


def updated(devices, fsdp=1, accumulate=1, optimizer=OPTIMIZER, steps=2, **fields):
    """The state after some steps in float64, and the loss of each."""
    with jax.enable_x64(True):
        mesh = sharding.make_mesh(devices // fsdp, fsdp)
        model = models.create("cifar_resnet14", num_classes=10, dtype=jnp.float64, **fields)
        step = jax.jit(partial(train_step, model=model, optimizer=optimizer, mesh=mesh, accumulate=accumulate))
        state, batch, losses = state_on(mesh, model, optimizer=optimizer), batch_on(mesh), []
        for _ in range(steps):
            state, metrics = step(state, batch)
            losses.append(float(metrics.loss / metrics.count))
        return jax.device_get(state), losses


def assert_close(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.fixture(scope="module")
def large():
    """Two steps of a whole batch with statistic groups of 4, on one device."""
    return updated(1, group_size=4)


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 8), (4, 2)])
def test_an_accumulated_batch_is_the_whole_one_when_groups_match(large, devices, accumulate):
    state, losses = updated(devices, accumulate=accumulate, group_size=4)
    np.testing.assert_allclose(losses, large[1], rtol=1e-10)
    assert_close(state, large[0])


def test_parts_without_groups_are_the_same_on_any_number_of_devices():
    one, four = updated(1, accumulate=4), updated(4, accumulate=4)
    np.testing.assert_allclose(one[1], four[1], rtol=1e-10)
    assert_close(one[0], four[0])
    # Each part is normalised by itself.
    assert abs(one[1][0] - updated(1)[1][0]) > 1e-6


@pytest.mark.parametrize(("devices", "group"), [(8, 16), (4, 32)])
def test_a_group_that_spans_devices_is_that_of_one_device(devices, group):
    one, many = updated(1, group_size=group), updated(devices, group_size=group)
    np.testing.assert_allclose(one[1], many[1], rtol=1e-10)
    assert_close(one[0], many[0])


@pytest.mark.parametrize("fields", [{}, {"group_size": 4, "unroll": True, "shortcut": "C"}])
def test_recomputed_blocks_change_nothing(fields):
    kept, recomputed = updated(1, **fields), updated(1, remat=True, **fields)
    np.testing.assert_allclose(kept[1], recomputed[1], rtol=1e-10)
    assert_close(kept[0], recomputed[0])


def test_bottlenecks_are_recomputed_too():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    gradients = []
    for remat in (False, True):
        model = models.ResNet((3, 2), (4, 8), True, "cifar", 5, "B", stride_in="3x3", remat=remat)
        variables = model.init(jax.random.key(1), images, train=False)

        def loss(params, model=model, stats=variables["batch_stats"]):
            logits, _ = model.apply(
                {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.square(logits).sum()

        gradients.append(jax.jit(jax.grad(loss))(variables["params"]))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4 * largest), *gradients)


def test_recomputed_blocks_need_a_third_of_the_memory():
    # ResNet-1202 itself takes minutes to compile twice; its figures are in the README.
    mesh = sharding.make_mesh(1)
    batch = Batch(*(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in BATCH_OF_128))

    def working_memory(remat):
        model = models.create("cifar_resnet110", num_classes=10, remat=remat)
        state = abstract_state(model, OPTIMIZER, (32, 32, 3), mesh)
        step = jax.jit(partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh))
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert working_memory(True) < working_memory(False) / 3


@pytest.mark.parametrize("fsdp", [2, 4])
def test_cut_parameters_train_alike(large, fsdp):
    state, losses = updated(4, fsdp=fsdp, group_size=4)
    np.testing.assert_allclose(losses, large[1], rtol=1e-10)
    assert_close(state, large[0])


def bytes_on_a_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_each_of_4_devices_holds_at_most_30_percent_of_parameters_and_optimizer():
    model = models.create("cifar_resnet20", num_classes=10)
    states = {}
    for fsdp in (1, 4):
        mesh = sharding.make_mesh(4 // fsdp, fsdp)
        state = create_state(model, OPTIMIZER, 0, (32, 32, 3), mesh)
        # The step leaves the state where it found it.
        images = np.zeros((8, 32, 32, 3), np.float32)
        batch = sharding.put_batch(mesh, Batch(images, np.zeros(8, np.int32), np.ones(8, np.float32)))
        step = partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(state_shardings(mesh, state), None))
        state, _ = jitted(state, batch)
        states[fsdp] = bytes_on_a_device((state.params, state.opt_state))
    assert states[4] <= 0.3 * states[1]


def test_lars_is_numpys():
    """One update of stacked and single layers: rate * trust * |w| / |g + d w|, kernels only."""
    rng = np.random.default_rng(0)
    shapes = {("a", "kernel"): (3, 3, 2, 4), ("rest", "b", "kernel"): (5, 3, 3, 4, 4), ("rest", "bn", "scale"): (5, 4)}

    def tree(values):
        return {
            "a": {"kernel": values["a", "kernel"]},
            "rest": {"b": {"kernel": values["rest", "b", "kernel"]}, "bn": {"scale": values["rest", "bn", "scale"]}},
        }

    params, gradients = ({path: rng.normal(size=shape) for path, shape in shapes.items()} for _ in range(2))
    params["rest", "b", "kernel"][2] = 0  # a layer of zeros still gets its gradient
    optimizer = schedules.sgd(
        optax.constant_schedule(0.5), momentum=0.9, weight_decay=0.01, decay_everything=False, trust_coefficient=0.02
    )
    with jax.enable_x64(True):
        given = jax.tree.map(jnp.asarray, tree(params))
        updates, _ = optimizer.update(
            jax.tree.map(jnp.asarray, tree(gradients)), optimizer.init(given), given, value=jnp.asarray(0.5)
        )
    for path in (("a", "kernel"), ("rest", "b", "kernel")):
        w, g = params[path], gradients[path] + 0.01 * params[path]
        layers = [()] if path[0] == "a" else range(5)
        expected = np.zeros_like(w)
        for layer in layers:
            norm, size = np.linalg.norm(w[layer]), np.linalg.norm(g[layer])
            expected[layer] = -0.5 * g[layer] * (0.02 * norm / size if norm else 1)
        found = updates
        for name in path:
            found = found[name]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(updates["rest"]["bn"]["scale"], -0.5 * gradients["rest", "bn", "scale"], rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_bad_step_that_is_skipped_changes_nothing_but_the_step(devices):
    mesh = sharding.make_mesh(devices)
    model = models.create("cifar_resnet8", num_classes=10)
    state = state_on(mesh, model, jnp.float32)
    step = jax.jit(partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh, skip_bad=True))
    state, _ = step(state, batch_on(mesh, np.float32))
    skipped, metrics = step(state, batch_on(mesh, np.float32, bad=17))
    assert np.isnan(metrics.loss)
    assert (int(state.step), int(skipped.step)) == (1, 2)
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(skipped, name), getattr(state, name))
    after, metrics = step(skipped, batch_on(mesh, np.float32))
    assert np.isfinite(metrics.loss)
    assert not np.array_equal(after.params["fc"]["kernel"], state.params["fc"]["kernel"])


class RootModel(nn.Module):
    """Logits sqrt(w): at w = 0 the loss is finite and its gradient is not."""

    axis_name: Any = None

    @nn.compact
    def __call__(self, images, train):
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        seen.value += 1
        weights = self.param("weights", nn.initializers.zeros, (10,))
        return jnp.broadcast_to(jnp.sqrt(weights)[None], (images.shape[0], 10))


def test_a_gradient_that_is_not_finite_is_a_bad_step_even_where_the_loss_is_finite():
    mesh, model = sharding.make_mesh(1), RootModel()
    state, batch = state_on(mesh, model, jnp.float32), batch_on(mesh, np.float32)
    after, metrics = train_step(state, batch, model=model, optimizer=OPTIMIZER, mesh=mesh)
    assert float(metrics.loss) == pytest.approx(BATCH * np.log(10))
    assert not np.isfinite(after.params["weights"]).all()
    after, metrics = train_step(state, batch, model=model, optimizer=OPTIMIZER, mesh=mesh, skip_bad=True)
    assert np.isnan(metrics.loss)
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
