"""The steps of a loop of one's own: any loss, any optimiser of Optax, any module, batches of NumPy or on devices."""

import operator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import models
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, put_batch, replicated
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs.checkpoints import CheckpointMetadata, Checkpoints
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import make_eval_step, make_train_step
from resnet_jax.training.losses import cross_entropy
from resnet_jax.training.metrics import Mean
from resnet_jax.training.state import abstract_state, abstract_variables, create_state
from resnet_jax.training.step import train_step

SHAPE = (2, 2, 3)


class Linear(nn.Module):
    """A module that knows nothing of ours but how it is called."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(4, dtype=self.dtype)(images.reshape(images.shape[0], -1))


class Switched(Linear):
    """Whose field of that name is no tuple of names."""

    frozen: bool = False


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return Linear()(nn.BatchNorm(use_running_average=not train, momentum=0.5)(images), train)


def batch_of(seed=0, size=8, **fields):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(size, *SHAPE)).astype(np.float32)
    return Batch(images, rng.integers(4, size=size).astype(np.int32), **fields)


def mean_loss(model, params, batch):
    logits = model.apply({"params": params}, batch.images, train=True)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], 1).mean()


def assert_close(one, other, **bounds):
    jax.tree.map(partial(np.testing.assert_allclose, **{"rtol": 1e-5, "atol": 1e-6} | bounds), one, other)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_field_frozen_of_another_kind_freezes_nothing(frozen):
    ends = []
    for model in (Linear(), Switched(frozen=frozen)):
        optimizer = optax.sgd(0.1)
        state = create_state(model, optimizer, 0, SHAPE, make_mesh(1))
        ends.append(make_train_step(model, optimizer, mesh=make_mesh(1))(state, batch_of())[0].params)
    assert_equal(*ends)


@pytest.mark.parametrize(
    ("optimizer", "grad_accum_steps"),
    [
        (optax.sgd(0.1, momentum=0.9), 1),
        (optax.adamw(optax.linear_schedule(1e-2, 0.0, 4)), 2),
        pytest.param(optax.adafactor(0.1), 1, marks=pytest.mark.slow),
    ],
)
def test_any_optimizer_of_optax_makes_its_own_updates(optimizer, grad_accum_steps):
    model, mesh = Linear(), make_mesh(2)
    start = create_state(model, optimizer, 0, SHAPE, mesh)
    step = make_train_step(model, optimizer, mesh=mesh, grad_accum_steps=grad_accum_steps)
    params, opt_state = start.params, optimizer.init(start.params)
    ours, expected = start, jax.device_get((params, opt_state))
    for seed in range(3):
        batch = batch_of(seed)
        loss, gradients = jax.jit(jax.value_and_grad(partial(mean_loss, model)))(expected[0], batch)
        updates, opt_state = optimizers.promoting(optimizer.update)(gradients, expected[1], expected[0])
        expected = optax.apply_updates(expected[0], updates), opt_state
        ours, found = step(ours, batch)
        assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-5)
        assert sorted(found) == ["error", "loss"]  # no rate is known
    assert_close((ours.params, ours.opt_state), expected)
    assert int(ours.step) == 3


def test_a_bad_step_of_a_foreign_optimizer_changes_nothing_but_the_step():
    model, optimizer = Linear(), optax.adamw(1e-2)
    step = make_train_step(model, optimizer, skip_nonfinite=True)
    once, _ = step(create_state(model, optimizer, 0, SHAPE), batch_of())
    kept = jax.device_get(once)
    bad = batch_of()
    bad.images[3] = np.inf
    after, found = step(once, bad)
    assert np.isnan(float(found["loss"]))
    assert (int(after.step), int(after.skipped)) == (2, 1)
    assert_equal((after.params, after.opt_state), (kept.params, kept.opt_state))
    assert not np.array_equal(step(after, batch_of())[0].params["Dense_0"]["kernel"], kept.params["Dense_0"]["kernel"])


def test_sgd_takes_a_number_and_its_rate_is_found_wherever_it_stands():
    params, gradient = {"kernel": jnp.ones(2)}, {"kernel": jnp.array([1.0, -2.0])}
    plain, scheduled = (
        optimizers.sgd(0.5),
        optimizers.sgd(optax.constant_schedule(0.5), momentum=0.9, weight_decay=1e-4),
    )
    assert_equal(
        plain.update(gradient, plain.init(params), params), scheduled.update(gradient, scheduled.init(params), params)
    )
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(plain, {"kernel": True}))
    assert optimizers.learning_rate(clipped.init(params)) == 0.5
    slowed = optax.chain(plain, optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    state = slowed.init(params)
    for _ in range(3):
        _, state = optimizers.promoting(slowed.update)(gradient, state, params, value=jnp.asarray(1.0))
    assert optimizers.learning_rate(state) in (0.25, 0.125)
    assert optimizers.learning_rate(optax.sgd(0.1).init(params)) is None
    warm = optimizers.sgd(0.5, warmup=0.1)
    with pytest.raises(ValueError, match="give it as update"):
        warm.update(gradient, warm.init(params), params)


def test_a_loss_of_ones_own_is_minimised_and_its_metrics_come_back():
    class Regression(NamedTuple):
        images: Any
        targets: Any

    def squared(outputs, batch):
        distances = jnp.square(outputs - batch.targets).sum(-1)
        return distances.sum(), {"far": ((distances > 4).sum(), len(distances)), "largest": (outputs.max(), 1)}

    def per_target(outputs, batch):
        return squared(outputs, batch)[0], {"loss": (squared(outputs, batch)[0], outputs.size)}

    model, mesh = Linear(), make_mesh(4)
    rng = np.random.default_rng(0)
    batch = Regression(batch_of().images, rng.normal(size=(8, 4)).astype(np.float32))
    start = jax.device_get(create_state(model, optax.sgd(1.0), 0, SHAPE, mesh))

    def by_hand(params):
        return jnp.square(model.apply({"params": params}, batch.images, train=True) - batch.targets).sum()

    total, gradients = jax.value_and_grad(by_hand)(start.params)
    for loss, count in ((squared, 8), (per_target, 32)):
        step = make_train_step(model, optax.sgd(1.0), loss=loss, mesh=mesh)
        after, found = step(create_state(model, optax.sgd(1.0), 0, SHAPE, mesh), batch)
        assert float(found["loss"]) == pytest.approx(float(total) / count, rel=1e-5)
        assert_close(after.params, jax.tree.map(lambda w, g, count=count: w - g / count, start.params, gradients))
        assert (sorted(found) == ["far", "largest", "loss"]) == (loss is squared)
        assert "far" not in found or (float(found["far"].count) == 8 and found["largest"].count == 4)


def test_a_loss_is_given_float32():
    def loss(outputs, batch):
        assert outputs.dtype == jnp.float32
        return cross_entropy(outputs, batch)

    model = Linear(dtype=jnp.bfloat16)
    variables = create_state(model, optax.sgd(0.1), 0, SHAPE).variables
    assert make_eval_step(model, loss=loss)(variables, batch_of())["loss"].total.dtype == jnp.float32


@pytest.mark.slow
def test_without_weights_every_example_counts():
    model, mesh = models.ResNet((2, 1), (4, 8), False, "cifar", 4, "A"), make_mesh(2)
    optimizer = optimizers.sgd(0.1)
    step = jax.jit(partial(train_step, model=model, optimizer=optimizer, mesh=mesh))
    found = []
    for weights in (None, np.ones(8, np.float32)):
        batch = put_batch(mesh, batch_of(weights=weights))
        found.append(step(create_state(model, optimizer, 0, SHAPE, mesh), batch))
    assert_close(*found)
    compiled, _ = make_train_step(model, optimizer, mesh=mesh)(create_state(model, optimizer, 0, SHAPE, mesh), batch)
    assert_close(compiled.variables, found[1][0].variables)


def test_batches_of_numpy_and_on_devices_are_the_same_and_compile_once():
    traced = []

    def loss(outputs, batch):
        traced.append(1)
        return cross_entropy(outputs, batch)

    model, mesh, optimizer = Linear(), make_mesh(4), optax.sgd(0.1)
    step = make_train_step(model, optimizer, loss=loss, mesh=mesh)
    batch = batch_of()
    given = [batch, jax.device_put(batch, jax.devices()[1]), put_batch(mesh, batch)]
    given.append(batch._replace(labels=batch.labels.astype(np.int64)))
    results = []
    for each in given:
        state = create_state(model, optimizer, 0, SHAPE, mesh)
        with jax.transfer_guard("disallow"):
            results.append(step(state, each))
        assert jax.tree.leaves(state.params)[0].is_deleted()
    for result in results[1:]:
        assert_equal(result, results[0])
    assert len(traced) == 1
    with pytest.raises(InputError, match="the batch size=6 cannot be divided by 4 devices"):
        step(results[0][0], batch_of(size=6))


def classifier_of(model):
    variables = model.init(jax.random.key(1), jnp.zeros((1, *SHAPE)), train=False)
    mean = np.arange(12, dtype=np.float32).reshape(SHAPE)
    return Classifier(
        model, variables, Preprocessing(jnp.asarray(mean), jnp.full((1, 1, 3), 50.0)), tuple("abcd"), SHAPE
    )


def test_a_classifier_is_trained_on_from_where_it_is():
    classifier, optimizer = classifier_of(Normalized()), optax.sgd(0.1)
    before = jax.device_get(classifier.variables)
    state = create_state(classifier, optimizer)
    assert_equal(state.variables, before)
    pixels = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), np.uint8)
    batch = Batch(pixels, np.arange(8) % 4)
    floats = batch._replace(images=np.asarray(classifier.preprocessing(jnp.asarray(pixels))))
    step = make_train_step(classifier, optimizer)
    one, _ = step(state, batch)
    assert_equal(classifier.variables, before)  # the steps donate a copy
    other, _ = make_train_step(classifier.model, optimizer)(create_state(classifier, optimizer), floats)
    assert_close(one.variables, other.variables)
    third, _ = make_train_step(classifier.model, optimizer, preprocessing=classifier.preprocessing)(
        create_state(classifier, optimizer), batch
    )
    assert_equal(one.variables, third.variables)
    with pytest.raises(ValueError, match="give preprocessing="):
        make_train_step(classifier.model, optimizer)(create_state(classifier, optimizer), batch)
    with pytest.raises(ValueError, match="give their image_shape"):
        create_state(classifier.model, optimizer)


def test_augmentation_changes_the_batch_by_another_key_in_each_step():
    def augment(key, batch):
        return batch._replace(images=batch.images + jax.random.normal(key, ()))

    def loss(outputs, batch):
        total, metrics = cross_entropy(outputs, batch)
        return total, {**metrics, "pixel": (batch.images.sum(), batch.images.size)}

    model, optimizer = Linear(), optax.sgd(0.0)
    runs = []
    for seed in (0, 0, 1):
        step = make_train_step(model, optimizer, loss=loss, augment=augment, seed=seed)
        state = create_state(model, optimizer, 0, SHAPE)
        pixels = []
        for _ in range(3):
            state, found = step(state, batch_of())
            pixels.append(float(found["pixel"]))
        runs.append(pixels)
    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == 6


@pytest.mark.parametrize("fsdp", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_averages_are_numpys(fsdp, tmp_path):
    model, optimizer, mesh = Normalized(), optimizers.sgd(0.5), make_mesh(2 // fsdp, fsdp)
    state = create_state(model, optimizer, 0, SHAPE, mesh, ema=True)
    expected = jax.device_get(state.variables)
    step = make_train_step(model, optimizer, mesh=mesh, skip_nonfinite=True, ema_decay=0.75)
    for seed in range(3):
        state, _ = step(state, batch_of(seed))
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * np.asarray(new), expected, state.variables)
    assert_close(state.ema, expected)
    bad = batch_of()
    bad.images[0] = np.nan
    state, _ = step(state, bad)
    assert_close(state.eval_variables, expected)
    assert not np.allclose(
        state.eval_variables["params"]["Linear_0"]["Dense_0"]["kernel"], state.params["Linear_0"]["Dense_0"]["kernel"]
    )
    # Nobody's averages are thrown away by a step that makes none.
    without, _ = make_train_step(model, optimizer, mesh=mesh)(jax.tree.map(jnp.copy, state), batch_of())
    assert_equal(without.ema, state.ema)

    kept, metadata, preprocessing = (
        jax.device_get(state),
        CheckpointMetadata(("a", "b"), SHAPE, 7),
        Preprocessing(jnp.zeros((1, 1, 3))),
    )
    with Checkpoints(tmp_path, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, metadata, 4)
        checkpoints.wait()
        restored = checkpoints.restore(lambda _: abstract_state(model, optimizer, SHAPE, mesh, ema=True), print)
    assert_equal(restored.state, kept)

    with pytest.raises(ValueError, match="ema=True"):
        step(create_state(model, optimizer, 0, SHAPE, mesh), batch_of())


def test_metrics_of_evaluation_add_up_to_those_of_all_images():
    classifier = classifier_of(Normalized())
    score = make_eval_step(classifier, loss=partial(cross_entropy, top_k=(2,)), mesh=make_mesh(2))
    variables = jax.device_put(classifier.variables, replicated(make_mesh(2)))
    batch = batch_of(size=8)
    logits = np.asarray(classifier.model.apply(classifier.variables, batch.images, train=False))
    weights = np.array([1, 1, 1, 1, 1, 0, 0, 1], np.float32)
    with jax.transfer_guard("disallow"):
        whole = score(variables, batch._replace(weights=weights))
        parts = [score(variables, Batch(*(each[i : i + 4] for each in (*batch[:2], weights)))) for i in (0, 4)]
    total = jax.tree.map(operator.add, *parts)
    second = (np.argsort(-logits, 1)[:, :2] != batch.labels[:, None]).all(1)
    for found in (whole, total):
        assert float(found["error"]) == pytest.approx(((logits.argmax(1) != batch.labels) * weights).sum() / 6)
        assert float(found["top2_error"]) == pytest.approx((second * weights).sum() / 6)
    assert float(parts[0]["loss"] + parts[1]["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert float(jax.tree.map(lambda *each: np.stack(each), *parts)["loss"]) == pytest.approx(float(whole["loss"]))
    assert float(Mean(np.float32(1), np.float32(4)) + Mean(np.float32(1), np.float32(4))) == 0.25


def test_abstract_variables_are_those_of_a_state_without_an_optimizer():
    mesh, model = make_mesh(1, 4), models.create("cifar_resnet8", num_classes=10)
    state = abstract_state(model, optimizers.sgd(0.1), (8, 8, 3), mesh)
    assert abstract_variables(model, (8, 8, 3), mesh) == state.variables
    assert any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params))
    assert abstract_variables(Linear(), SHAPE)["batch_stats"] == {}


def test_a_state_and_metrics_are_shown_in_a_line():
    state = create_state(Linear(), optax.sgd(0.1), 0, SHAPE)
    assert repr(state) == "TrainState(step 0, 52 parameters)"
    state.step.delete()  # as a step does
    assert repr(state) == "TrainState(given away to a step, 52 parameters)"
    assert repr({"loss": Mean(jnp.ones(2), 4 * jnp.ones(2))}) == "{'loss': Mean(0.25)}"
    said = []
    jax.eval_shape(lambda *given: said.append(repr(given)), jnp.ones(3), Mean(jnp.ones(()), jnp.ones(())))
    assert "Mean(total=" in said[0]
    assert "Mean(total=" in repr(jax.eval_shape(lambda: Mean(jnp.ones(2), jnp.ones(2))))


def test_images_that_the_pre_processing_is_not_of_are_refused():
    network, optimizer = Linear(), optax.sgd(0.1)
    step = make_train_step(network, optimizer, preprocessing=Preprocessing(jnp.zeros((4, 4, 3))))
    state = create_state(network, optimizer, 0, SHAPE)
    for dtype, message in (
        (np.uint8, "images are 2 x 2 pixels, but the mean image that is subtracted is 4 x 4: give images of that size"),
        (np.int32, "images are int32, but they must be uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            step(state, Batch(np.zeros((8, *SHAPE), dtype), np.zeros(8, np.int32)))
