"""Frozen parts stay to the bit, cost no backward pass, and everything else is trained as without them."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import models
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.recalibration import recalibrate
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import make_train_step
from resnet_jax.training.state import create_state, must_be_finite
from resnet_jax.training.step import train_step

SLOW = pytest.mark.slow
SHAPE = (8, 8, 3)
NETWORK = models.ResNet((1, 2), (4, 8), False, "cifar", 4, "A", momentum=0.7)
FROZEN = {"stem": ("conv1", "bn1"), "stage1": ("conv1", "bn1", "stage1")}
FROZEN["stage2"] = FROZEN["backbone"] = (*FROZEN["stage1"], "stage2")


def batch_of(seed=0, size=8):
    images = np.random.default_rng(seed).normal(2, 3, (size, *SHAPE)).astype(np.float32)
    return Batch(images, np.arange(size, dtype=np.int32) % 4)


def trained_with(model, optimizer, steps=3, mesh=None, ema=False, batches=batch_of, **options):
    """The variables before and after some steps, averages among them, by collection and name."""
    mesh = mesh or make_mesh(1)
    state = create_state(model, optimizer, 0, SHAPE, mesh, ema=ema)
    if ema:  # what is averaged is another number, which no rounding gives back
        state = state.replace(ema=jax.tree.map(lambda leaf: leaf + 0.1, state.ema))
    before = jax.device_get((state.variables, state.ema))
    step = make_train_step(model, optimizer, mesh=mesh, ema_decay=0.9 if ema else None, **options)
    for seed in range(steps):
        state, metrics = step(state, batches(seed))
    assert np.isfinite(float(metrics["loss"]))
    assert all(np.isfinite(leaf).all() for leaf in must_be_finite(state))
    return before, jax.device_get((state.variables, state.ema))


def changes(before, after):
    """By collection and name, "none" of its numbers or "all" of its arrays have changed."""

    def change(old, new):
        moved = [not np.array_equal(*pair) for pair in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
        return "all" if all(moved) else "none" if not any(moved) else "some"

    return {
        collection: {name: change(old, after[collection][name]) for name, old in trees.items()}
        for collection, trees in before.items()
    }


def expected(frozen, live=False):
    names = ("conv1", "bn1", "stage1", "stage2", "fc")
    params = {name: "none" if name in frozen else "all" for name in names}
    still = () if live else frozen
    stats = {name: "none" if name in still else "all" for name in ("bn1", "stage1", "stage2")}
    return {"params": params, "batch_stats": stats}


OPTIMIZERS = {
    "sgd": optimizers.sgd(0.1, weight_decay=0.1),
    "lars": optimizers.sgd(0.1, weight_decay=0.1, trust_coefficient=0.01, momentum_form="torch"),
    "plateau": optimizers.sgd(
        0.1, plateau=optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    ),
    "adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1)),
}


@pytest.mark.parametrize(
    ("freeze", "live"),
    [
        ("stage1", False),
        ("backbone", True),
        *(pytest.param(*each, marks=SLOW) for each in (("stem", False), ("stage1", True), ("backbone", False))),
    ],
)
def test_frozen_parts_stay_to_the_bit_and_their_statistics_unless_live(freeze, live):
    model = NETWORK.clone(freeze=freeze, live_statistics=live)
    (before, _), (after, _) = trained_with(model, OPTIMIZERS["sgd"])
    assert changes(before, after) == expected(FROZEN[freeze], live)


@pytest.mark.parametrize(
    "name", ["sgd", "adamw", pytest.param("lars", marks=SLOW), pytest.param("plateau", marks=SLOW)]
)
def test_no_decay_of_any_optimizer_reaches_frozen_parts_or_their_averages(name):
    model = NETWORK.clone(freeze="stage1")
    before, after = trained_with(model, OPTIMIZERS[name], ema=True)
    for old, new in zip(before, after, strict=True):
        assert changes(old, new) == expected(FROZEN["stage1"])
    buffers = jax.tree.leaves(create_state(model, OPTIMIZERS[name], 0, SHAPE).opt_state)
    largest = models.init(model, SHAPE, jax.random.key(0))["params"]["stage2"]["rest"]["conv1"]["kernel"].size
    assert max(leaf.size for leaf in buffers) == largest


@pytest.mark.parametrize(
    ("mesh", "fields", "options"),
    [
        pytest.param(make_mesh(3), {}, {"skip_nonfinite": True}, marks=SLOW),
        (make_mesh(1, 2), {"remat": True}, {"grad_accum_steps": 2}),
        pytest.param(make_mesh(2), {"unroll": True, "bn_group_size": 2}, {"grad_accum_steps": 2}, marks=SLOW),
        pytest.param(make_mesh(2, 2), {"shortcut": None}, {}, marks=SLOW),
    ],
    ids=["three devices", "fsdp, remat, accumulated", "groups", "plain"],
)
def test_frozen_parts_stay_to_the_bit_in_every_form_of_the_step(mesh, fields, options):
    """Sums over three devices, divided by three, would be other numbers."""
    model = NETWORK.clone(freeze="stage1", **fields)
    batches = partial(batch_of, size=24)
    before, after = trained_with(model, OPTIMIZERS["sgd"], mesh=mesh, ema=True, batches=batches, **options)
    for old, new in zip(before, after, strict=True):
        assert changes(old, new) == expected(FROZEN["stage1"])


def test_what_is_trained_is_trained_as_on_the_feature_maps_alone():
    """As if the frozen half were pre-processing: gradients of the other half, by plain JAX."""
    model = NETWORK.clone(freeze="stage1")
    rates = optax.sgd(0.1)
    (_, _), (after, _) = trained_with(model, rates, steps=1)
    start, batch = jax.device_get(create_state(model, rates, 0, SHAPE).variables), batch_of()
    maps = jax.jit(partial(NETWORK.apply, train=False, method="stages"))(start, batch.images)["stage1"]

    def loss(params):
        given = {**start, "params": {**start["params"], **params}}
        last, _ = NETWORK.apply(given, 2, maps, train=True, method="stage", mutable=["batch_stats"])
        logits = NETWORK.apply(given, last, method="head")
        return -jax.nn.log_softmax(logits)[jnp.arange(8), batch.labels].mean()

    trained = {name: start["params"][name] for name in ("stage2", "fc")}
    by_hand = jax.tree.map(lambda w, g: w - 0.1 * g, trained, jax.device_get(jax.jit(jax.grad(loss))(trained)))
    for name in by_hand:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after["params"][name], by_hand[name])


def test_frozen_statistics_of_a_trained_network_are_what_it_normalises_by():
    """The classic mistake: parameters are frozen, and features move, since statistics of the new images come in."""
    model = NETWORK.clone(freeze="backbone")
    optimizer = optimizers.sgd(0.1)
    state = create_state(model, optimizer, 0, SHAPE)
    features = jax.jit(
        lambda variables, train: model.apply(variables, batch_of().images, train, method="features"), static_argnums=1
    )
    before = np.asarray(features(state.variables, False))
    np.testing.assert_array_equal(features(state.variables, True), before)
    step = make_train_step(model, optimizer, mesh=make_mesh(1))
    state = create_state(model, optimizer, 0, SHAPE, make_mesh(1))
    for seed in range(3):
        state, _ = step(state, batch_of(seed))
    np.testing.assert_array_equal(features(state.variables, False), before)


def test_one_image_of_each_class_in_a_batch_is_enough():
    model = NETWORK.clone(freeze="backbone", bn_group_size=64)
    (before, _), (after, _) = trained_with(model, optimizers.sgd(0.1), steps=20, batches=lambda _: batch_of(0, 4))
    assert changes(before, after) == expected(FROZEN["backbone"])


def convolutions(model, **options):
    """In the compiled program of a step, with every block written out."""
    model = model.clone(unroll=True)
    mesh, optimizer = make_mesh(1), optimizers.sgd(0.1)
    state = create_state(model, optimizer, 0, SHAPE, mesh)
    step = jax.jit(partial(train_step, model=model, optimizer=optimizer, mesh=mesh, **options))
    return len(re.findall(r"= \S+ convolution\(", step.lower(state, batch_of()).compile().as_text()))


def test_frozen_parts_have_no_backward_pass():
    """A trained convolution is three: forward, of its kernel, and of its input; the first one's input is given."""
    counts = {freeze: convolutions(NETWORK.clone(freeze=freeze)) for freeze in (None, "stem", "stage1", "backbone")}
    assert counts == {None: 3 * 7 - 1, "stem": 1 + 3 * 6 - 1, "stage1": 3 + 3 * 4 - 1, "backbone": 7}


def test_a_state_of_other_frozen_parts_is_refused():
    optimizer = optimizers.sgd(0.1)
    state = create_state(NETWORK, optimizer, 0, SHAPE)
    with pytest.raises(ValueError, match="other parts of its network were frozen"):
        make_train_step(NETWORK.clone(freeze="stem"), optimizer)(state, batch_of())


def test_recalibration_leaves_frozen_statistics():
    images = [batch_of(seed).images for seed in range(2)]
    found = {}
    for name, fields in (
        ("all", {}),
        ("frozen", {"freeze": "stage1"}),
        ("live", {"freeze": "stage1", "live_statistics": True}),
    ):
        model = NETWORK.clone(**fields)
        variables = models.init(model, SHAPE, jax.random.key(0))
        classifier = Classifier(model, variables, Preprocessing(jnp.zeros((1, 1, 3))), tuple("abcd"), SHAPE)
        found[name] = recalibrate(classifier, images).variables
        assert (
            changes(jax.device_get(variables), found[name])["batch_stats"]
            == expected(FROZEN["stage1"] if fields else (), name != "frozen")["batch_stats"]
        )
    jax.tree.map(np.testing.assert_array_equal, found["live"], found["all"])
