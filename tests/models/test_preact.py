"""Pre-activation against the same network in plain NumPy, and what differs from the original order."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

from resnet_jax import models

BASIC = models.ResNet((2, 2), (4, 8), False, "cifar", 5, "A", preactivation=True)
BOTTLENECK = models.ResNet((2, 1), (4, 8), True, "cifar", 5, "B", preactivation=True)
IMAGES = np.random.default_rng(7).normal(size=(2, 9, 8, 3)).astype(np.float32)


def random_variables(model):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, models.abstract_variables(model, (8, 8, 3)))


def reference(model, variables, images):
    """The logits, in float64."""
    tree = models.unstack(variables)
    params, stats = (numpy_reference.arrays(tree[name]) for name in ("params", "batch_stats"))

    def activated(where, name, x):
        scale, shift = (where[0][name][each] for each in ("scale", "bias"))
        mean, var = (where[1][name][each] for each in ("mean", "var"))
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)

    def conv(kernel, x, stride=1):
        pad = (kernel.shape[0] // 2,) * 2
        return numpy_reference.conv(x, kernel, stride, (pad, pad))

    x = activated((params, stats), "bn1", conv(params["conv1"]["kernel"], images))
    for s, blocks in enumerate(model.stage_sizes, 1):
        for b in range(1, blocks + 1):
            here = [each[f"stage{s}"][f"block{b}"] for each in (params, stats)]
            stride = 2 if s > 1 and b == 1 else 1
            layers = sorted(name for name in here[0] if name.startswith("conv"))
            y = x if (s, b) == (1, 1) else activated(here, "bn1", x)
            # The first block of a stage changes the dimensions, and its shortcut begins behind the activation.
            shortcut = y if b == 1 else x
            for i, name in enumerate(layers):
                y = y if i == 0 else activated(here, f"bn{i + 1}", y)
                y = conv(here[0][name]["kernel"], y, stride if i == 0 else 1)
            if "shortcut" in here[0]:
                assert set(here[0]["shortcut"]) == {"conv"}
                shortcut = conv(here[0]["shortcut"]["conv"]["kernel"], shortcut, stride)
            if shortcut.shape[1] != y.shape[1]:
                shortcut = shortcut[:, ::stride, ::stride]
            missing = y.shape[-1] - shortcut.shape[-1]
            x = y + np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, missing)))
    last = f"stage{len(model.stage_sizes)}"
    x = activated((params[last], stats[last]), "bn", x)
    return x.mean((1, 2)) @ params["fc"]["kernel"] + params["fc"]["bias"]


@pytest.mark.parametrize("model", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_logits_are_those_of_plain_numpy(model):
    variables = random_variables(model)
    logits = jax.jit(lambda v: model.apply(v, IMAGES, False))(variables)
    expected = reference(model, variables, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    # The last map is what the head averages.
    joined = models.stack(models.unstack(variables))
    jax.tree.map(np.testing.assert_array_equal, joined, variables)


def test_it_has_as_many_parameters_as_the_original_order():
    """With shortcut A: the batch norms are others, and as many."""
    for depth, count in ((20, 269_722), (110, 1_727_962)):
        shapes = models.abstract_variables(models.create(f"cifar_preact{depth}"), (32, 32, 3))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    # Of ResNet-50's projections, 4, none has a batch norm: 2 (256 + 512 + 1024 + 2048) parameters fewer, and the first
    # batch norms have the channels of the blocks' inputs.
    stage = models.abstract_variables(models.create("preact50"), (32, 32, 3))["params"]["stage4"]
    assert stage["first"]["bn1"]["scale"].shape == (1024,)
    assert stage["rest"]["bn1"]["scale"].shape == (2, 2048)
    assert stage["bn"]["scale"].shape == (2048,)


def test_what_ends_a_stage_is_frozen_with_it():
    model = BASIC.clone(freeze="backbone")
    assert model.frozen == ("conv1", "bn1", "stage1", "stage2")
    with pytest.raises(ValueError, match="zero_init_residual is not for preactivation"):
        BASIC.clone(zero_init_residual=True)


def test_the_shortcut_path_is_clear():
    """What a block adds to its input is a convolution, and no ReLU follows: negative values pass a stage."""
    variables = random_variables(BASIC)
    for name in ("first", "rest"):
        variables["params"]["stage1"][name]["conv2"]["kernel"] *= 0
    x = jnp.asarray(IMAGES[..., :1] - np.zeros(4, np.float32))
    np.testing.assert_array_equal(BASIC.apply(variables, 1, x, False, method="stage"), x)
