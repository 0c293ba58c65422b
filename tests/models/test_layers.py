"""Batch norm and shortcuts against NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resnet_jax.models.layers import BatchNorm, Shortcut, bn_groups, zero_pad_shortcut


def bn_variables(channels=3, seed=0):
    rng = np.random.default_rng(seed)
    scale, bias, mean, var = (rng.uniform(0.5, 2.0, channels).astype(np.float32) for _ in range(4))
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def activations(batch, seed=1):
    return (2 * np.random.default_rng(seed).normal(size=(batch, 4, 5, 3)) + 3).astype(np.float32)


def train_apply(bn, variables, x):
    return bn.apply(variables, x, True, mutable=["batch_stats"])


def test_the_gradient_keeps_activations_in_their_own_dtype():
    bn, x = BatchNorm(dtype=jnp.bfloat16), jnp.ones((2, 4, 5, 3), jnp.bfloat16)
    _, backward = jax.eval_shape(lambda x: jax.vjp(lambda x: train_apply(bn, bn_variables(), x)[0], x), x)
    kept = {leaf.dtype for leaf in jax.tree.leaves(backward) if leaf.size >= x.size}
    assert kept == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("momentum", "epsilon"), [(0.9, 1e-5), (0.6, 0.5)])
def test_training_normalises_by_the_batch_and_keeps_unbiased_statistics(momentum, epsilon):
    variables, x = bn_variables(), activations(2)
    y, updated = train_apply(BatchNorm(momentum, epsilon), variables, x)

    params, old = variables["params"], variables["batch_stats"]
    mean, var = x.mean((0, 1, 2), np.float64), x.var((0, 1, 2), np.float64)
    expected = (x - mean) / np.sqrt(var + epsilon) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    unbiased = x.reshape(-1, 3).var(0, np.float64, ddof=1)
    new = updated["batch_stats"]
    np.testing.assert_allclose(new["mean"], momentum * old["mean"] + (1 - momentum) * mean, rtol=1e-5)
    np.testing.assert_allclose(new["var"], momentum * old["var"] + (1 - momentum) * unbiased, rtol=1e-5)


def test_evaluation_normalises_by_the_running_statistics():
    variables, x = bn_variables(), activations(5)
    y = BatchNorm(bn_group_size=4).apply(variables, x, False)  # groups, which do not divide 5, matter in training only
    params, old = variables["params"], variables["batch_stats"]
    expected = (x - old["mean"]) / np.sqrt(old["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_evaluation_is_exact_for_a_channel_that_is_constant():
    variables = bn_variables()
    mean = np.array([100.37, 1000.1, -3.3], np.float32)
    variables["batch_stats"] = {"mean": mean, "var": np.zeros(3, np.float32)}
    y = BatchNorm().apply(variables, np.broadcast_to(mean, (2, 4, 5, 3)), False)
    np.testing.assert_array_equal(y, np.broadcast_to(variables["params"]["bias"], y.shape))


def test_initialisation_takes_any_batch_and_leaves_the_statistics():
    variables = BatchNorm(bn_group_size=4).init(jax.random.key(0), activations(1), True)
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(3))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))


@pytest.mark.parametrize("bn_group_size", [1, 2, 4, 12])
def test_groups_are_batches_of_their_own(bn_group_size):
    variables, x = bn_variables(), activations(12) * np.arange(1, 13, dtype=np.float32)[:, None, None, None]
    y, updated = train_apply(BatchNorm(bn_group_size=bn_group_size), variables, x)
    parts = [train_apply(BatchNorm(), variables, part) for part in np.split(x, 12 // bn_group_size)]
    np.testing.assert_allclose(y, np.concatenate([part for part, _ in parts]), rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        average = np.mean([stats["batch_stats"][name] for _, stats in parts], 0)
        np.testing.assert_allclose(updated["batch_stats"][name], average, rtol=1e-5)


def test_groups_must_divide_the_batch():
    with pytest.raises(
        ValueError, match=r"bn_group_size=4 does not fit 10 images: use a divisor of 10 such as 2, or None"
    ):
        train_apply(BatchNorm(bn_group_size=4), bn_variables(), activations(10))


def test_a_group_is_images_of_one_device_or_all_images_of_several():
    fitting = {(4, 8, None): (1, 8), (4, 8, 1): (4, 1), (4, 8, 4): (1, 1), (4, 8, 16): (1, 4), (4, 8, 32): (1, 8)}
    assert {case: bn_groups(*case) for case in fitting} == fitting
    for size in (-1, 0, 3, 6, 12, 64):
        with pytest.raises(ValueError, match=r"the 4 images that each of 8 devices has at a time: use a divisor of 4 "):
            bn_groups(4, 8, size)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bfloat16_activations_have_float32_statistics(dtype):
    variables, x = bn_variables(), activations(16).astype(jnp.bfloat16)
    y, updated = train_apply(BatchNorm(momentum=0.0, dtype=dtype), variables, x)
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    stats = updated["batch_stats"]
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], var * 320 / 319, rtol=1e-5)
    assert y.dtype == dtype
    expected = (exact - mean) / np.sqrt(var + 1e-5) * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=1e-5 if dtype == jnp.float32 else 0.02)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1])
def test_constant_activations_stay_finite(constant):
    # The difference of two large float32 moments may be a little below zero.
    variables = bn_variables(64)
    y, updated = train_apply(
        BatchNorm(), variables, jnp.full((7, 5, 3, 64), constant) * jnp.arange(64.0)[None, None, None]
    )
    assert np.isfinite(y).all()
    assert (updated["batch_stats"]["var"] > 0).all()


@pytest.mark.parametrize("bn_group_size", [2, 4])
def test_groups_inside_devices_need_no_communication(bn_group_size):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    bn, variables, x = BatchNorm(bn_group_size=bn_group_size), bn_variables(), activations(32)
    args = jax.device_put(variables, whole), jax.device_put(x, split)
    expected = train_apply(bn, variables, x)

    def collectives(compiled):
        return set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", compiled.as_text()))

    forward = jax.jit(lambda *args: train_apply(bn, *args)[0]).lower(*args).compile()
    assert collectives(forward) == set()
    np.testing.assert_allclose(forward(*args), expected[0], rtol=1e-5, atol=1e-5)

    # The running statistics average the groups of all devices: one sum of a few channel vectors.
    both = jax.jit(lambda *args: train_apply(bn, *args)).lower(*args).compile()
    assert collectives(both) == {"all-reduce"}
    np.testing.assert_allclose(both(*args)[1]["batch_stats"]["var"], expected[1]["batch_stats"]["var"], rtol=1e-5)

    over_the_whole_batch = jax.jit(lambda *args: train_apply(BatchNorm(), *args)[0]).lower(*args).compile()
    assert collectives(over_the_whole_batch) == {"all-reduce"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("channels", "features", "shortcut_padding", "first"),
    [
        (16, 32, "end", 0),
        (16, 32, "both", 8),
        (64, 256, "end", 0),
        (64, 256, "both", 96),
        (16, 48, "both", 16),
        (3, 8, "end", 0),
        (3, 8, "both", 2),
        (4, 4, "both", 0),
    ],
)
def test_option_a_subsamples_and_adds_zero_channels(channels, features, shortcut_padding, first, stride):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, channels)).astype(np.float32)
    expected = np.zeros((2, -(-5 // stride), -(-6 // stride), features), np.float32)
    for i in range(expected.shape[1]):
        for j in range(expected.shape[2]):
            expected[:, i, j, first : first + channels] = x[:, stride * i, stride * j]
    np.testing.assert_array_equal(zero_pad_shortcut(x, features, stride, shortcut_padding), expected)


def test_option_a_cannot_remove_channels():
    with pytest.raises(ValueError, match="8 cannot become 4"):
        zero_pad_shortcut(jnp.zeros((1, 2, 2, 8)), 4, 1, "end")


@pytest.mark.parametrize(
    ("option", "features", "stride", "projects"),
    [
        ("A", 4, 1, False),
        ("A", 8, 2, False),
        ("B", 4, 1, False),
        ("B", 8, 1, True),
        ("B", 4, 2, True),
        ("B", 8, 2, True),
        ("C", 4, 1, True),
        ("C", 8, 2, True),
    ],
)
def test_options_project_where_they_should(option, features, stride, projects):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 4)), jnp.float32)
    shortcut = Shortcut(option, features, stride, "end", BatchNorm)
    y, variables = shortcut.init_with_output(jax.random.key(0), x, False)
    sampled = np.asarray(x)[:, ::stride, ::stride]
    if projects:
        kernel = variables["params"]["conv"]["kernel"]
        assert kernel.shape == (1, 1, 4, features)
        assert set(variables["params"]) == {"conv", "bn"}
        expected = sampled @ np.asarray(kernel[0, 0]) / np.sqrt(1 + 1e-5)
    else:
        assert "params" not in variables
        expected = np.pad(sampled, ((0, 0), (0, 0), (0, 0), (0, features - 4)))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
