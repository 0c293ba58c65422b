"""What lets a step grow: accumulated batches, recomputed blocks, cut parameters, LARS, and steps that are left out."""

from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import models
from resnet_jax.data.batch import Batch
from resnet_jax.distributed.mesh import make_mesh, put_batch
from resnet_jax.training import optimizers
from resnet_jax.training.state import TrainState, abstract_state, create_state, state_shardings
from resnet_jax.training.step import train_step

OPTIMIZER = optimizers.sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=1e-4)
BATCH = 16
BATCH_OF_8 = (((8, 32, 32, 3), jnp.float32), ((8,), jnp.int32), ((8,), jnp.float32))


def batch_on(mesh, dtype=np.float64, bad=None):
    """Images of noise; the pixels of image `bad` are infinite."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(BATCH, 8, 8, 3)).astype(dtype), rng.integers(10, size=BATCH)
    if bad is not None:
        images[bad] = np.inf
    return put_batch(mesh, Batch(images, labels.astype(np.int32), np.ones(BATCH, dtype)))


def small_model(shortcut="A", **fields):
    """A stage of scanned blocks and one without."""
    return models.ResNet((3, 1), (4, 8), False, "cifar", 10, shortcut, **fields)


def random_variables(shapes, dtype):
    """Random numbers instead of the initial ones, whose drawing takes seconds to compile."""
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        numbers = rng.uniform(0.5, 1.5, leaf.shape) if path[-1].key in ("scale", "var") else rng.normal(size=leaf.shape)
        return jnp.asarray(numbers / np.prod(leaf.shape[:-1]) ** 0.5 if path[-1].key == "kernel" else numbers, dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def state_on(mesh, model, dtype=jnp.float64):
    shapes = abstract_state(model, OPTIMIZER, (8, 8, 3), mesh)
    params, stats = random_variables((shapes.params, shapes.batch_stats), dtype)
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, OPTIMIZER.init(params))
    return jax.device_put(state, state_shardings(mesh, state))


@cache
def updated(devices, fsdp=1, grad_accum_steps=1, **fields):
    """The state after two steps in float64, and the loss of each."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        mesh = make_mesh(devices // fsdp, fsdp)
        model = small_model(dtype=jnp.float64, **fields)
        step = jax.jit(
            partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh, grad_accum_steps=grad_accum_steps)
        )
        state, batch, losses = state_on(mesh, model), batch_on(mesh), []
        for _ in range(2):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        return jax.device_get(state), losses


def assert_close(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.fixture(scope="module")
def large():
    """Two steps of a whole batch with statistic groups of 2, on one device."""
    return updated(1, bn_group_size=2)


@pytest.mark.parametrize(("devices", "grad_accum_steps"), [pytest.param(1, 8, marks=pytest.mark.slow), (4, 2)])
def test_an_accumulated_batch_is_the_whole_one_when_groups_match(large, devices, grad_accum_steps):
    state, losses = updated(devices, grad_accum_steps=grad_accum_steps, bn_group_size=2)
    np.testing.assert_allclose(losses, large[1], rtol=1e-10)
    assert_close(state, large[0])


@pytest.mark.slow
def test_parts_without_groups_are_the_same_on_any_number_of_devices():
    one, four = updated(1, grad_accum_steps=4), updated(4, grad_accum_steps=4)
    np.testing.assert_allclose(one[1], four[1], rtol=1e-10)
    assert_close(one[0], four[0])
    # Each part is normalised by itself.
    assert abs(one[1][0] - updated(1)[1][0]) > 1e-6


@pytest.mark.parametrize(("devices", "group"), [(8, 8), pytest.param(4, BATCH, marks=pytest.mark.slow)])
def test_a_group_that_spans_devices_is_that_of_one_device(devices, group):
    one = updated(1, bn_group_size=group) if group < BATCH else updated(1)
    many = updated(devices, bn_group_size=group)
    np.testing.assert_allclose(one[1], many[1], rtol=1e-10)
    assert_close(one[0], many[0])


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"bn_group_size": 2, "unroll": True, "shortcut": "C"}, marks=pytest.mark.slow)]
)
def test_recomputed_blocks_change_nothing(fields):
    kept, recomputed = updated(1, **fields), updated(1, remat=True, **fields)
    np.testing.assert_allclose(kept[1], recomputed[1], rtol=1e-10)
    assert_close(kept[0], recomputed[0])


@pytest.mark.slow
def test_bottlenecks_are_recomputed_too():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    plain = models.ResNet((3, 1), (4, 8), True, "cifar", 5, "B", bottleneck_stride="3x3")
    shapes = jax.eval_shape(partial(plain.init, train=False), jax.random.key(1), images)
    variables = random_variables(shapes, jnp.float32)
    gradients = []
    for model in (plain, plain.clone(remat=True)):

        def loss(params, model=model):
            logits, _ = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.square(logits).sum()

        gradients.append(jax.jit(jax.grad(loss))(variables["params"]))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4 * largest), *gradients)


@pytest.mark.slow
def test_recomputed_blocks_need_less_than_half_of_the_memory():
    # The blocks of a ResNet-110, all in one stage. ResNet-1202 takes minutes to compile twice; its figures are in the
    # documentation.
    mesh = make_mesh(1)
    batch = Batch(*(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in BATCH_OF_8))

    def working_memory(remat):
        model = models.ResNet((54,), (16,), False, "cifar", 10, "A", remat=remat)
        state = abstract_state(model, OPTIMIZER, (32, 32, 3), mesh)
        step = jax.jit(partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh))
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert working_memory(True) < working_memory(False) / 2


@pytest.mark.parametrize("fsdp", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_cut_parameters_train_alike(large, fsdp):
    state, losses = updated(4, fsdp=fsdp, bn_group_size=2)
    np.testing.assert_allclose(losses, large[1], rtol=1e-10)
    assert_close(state, large[0])


def test_each_of_4_devices_holds_at_most_30_percent_of_parameters_and_optimizer():
    mesh, model = make_mesh(1, 4), models.create("cifar_resnet8", num_classes=10)
    state = create_state(model, OPTIMIZER, 0, (8, 8, 3), mesh)
    # The step leaves the state where it found it.
    step = partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(state_shardings(mesh, state), None))
    state, _ = jitted(state, batch_on(mesh, np.float32))
    kept = jax.tree.leaves((state.params, state.opt_state))
    for device in range(4):
        held = sum(leaf.addressable_shards[device].data.nbytes for leaf in kept)
        assert held <= 0.3 * sum(leaf.nbytes for leaf in kept)


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
    optimizer = optimizers.sgd(
        optax.constant_schedule(0.5), momentum=0.9, weight_decay=0.01, decay_everything=False, trust_coefficient=0.02
    )
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
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


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_bad_step_that_is_skipped_changes_nothing_but_the_step(devices):
    mesh = make_mesh(devices)
    model = small_model()
    state = state_on(mesh, model, jnp.float32)
    step = jax.jit(partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh, skip_nonfinite=True))
    state, _ = step(state, batch_on(mesh, np.float32))
    skipped, metrics = step(state, batch_on(mesh, np.float32, bad=9))
    assert np.isnan(metrics["loss"].total)
    assert (int(state.step), int(skipped.step)) == (1, 2)
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(skipped, name), getattr(state, name))
    after, metrics = step(skipped, batch_on(mesh, np.float32))
    assert np.isfinite(metrics["loss"].total)
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
    mesh, model = make_mesh(1), RootModel()
    state, batch = create_state(model, OPTIMIZER, 3, (8, 8, 3), mesh), batch_on(mesh, np.float32)
    step = partial(train_step, model=model, optimizer=OPTIMIZER, mesh=mesh)
    after, metrics = jax.jit(step)(state, batch)
    assert float(metrics["loss"].total) == pytest.approx(BATCH * np.log(10))
    assert not np.isfinite(after.params["weights"]).all()
    after, metrics = jax.jit(partial(step, skip_nonfinite=True))(state, batch)
    assert np.isnan(metrics["loss"].total)
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
