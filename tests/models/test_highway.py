"""The published highway networks and deep perceptrons, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

from resnet_jax import models
from resnet_jax.models import Gates


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(model, shape):
    rng = np.random.default_rng(0)
    shapes = models.abstract_variables(model, shape)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def test_the_published_network_has_its_parameters_and_layers():
    model = models.create("highway19")
    shapes = models.abstract_variables(model, (32, 32, 3))
    # Counted by hand: a highway layer has two 3x3 convolutions with biases.
    by_hand = 896 + 4 * 18_496 + 23_120 + 5 * 115_360 + 92_288 + 5 * 295_168 + 12_900 + 1_010
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == by_hand == 2_256_838
    assert sum(model.stage_sizes) + 2 == 19


def test_its_logits_are_those_of_plain_numpy():
    model = models.HighwayNet((2, 1), (4, 6, 5), num_classes=3)
    variables, x = drawn(model, (8, 8, 3)), np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    logits = jax.jit(lambda x: model.apply(variables, x, False))(x)
    params = numpy_reference.arrays(variables["params"])

    def conv(x, layer, i=...):
        kernel = layer["kernel"][i]
        pad = (kernel.shape[0] // 2,) * 2
        return numpy_reference.conv(x, kernel, 1, (pad, pad)) + layer["bias"][i]

    for stage, layers in (("stage1", 2), ("stage2", 1)):
        x = np.maximum(conv(x, params[stage]["first"]), 0)
        for i in range(layers):
            rest = params[stage]["rest"]
            gate = sigmoid(conv(x, rest["transform_gate"]["conv"], i))
            x = np.maximum(conv(x, rest["conv"], i), 0) * gate + x * (1 - gate)
        if stage == "stage1":
            x = x.reshape(2, 4, 2, 4, 2, 4).max((2, 4))
    x = np.maximum(conv(x, params["conv"]), 0).mean((1, 2))
    expected = x @ params["fc"]["kernel"] + params["fc"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_sizes_that_no_network_has_are_refused():
    for depth in (1, 2):
        with pytest.raises(ValueError, match=f"depth is {depth}, but a first and a last layer and one between them"):
            models.DeepMLP(depth, 4, 3, Gates())
    for layers, widths in (((1, 1), (4, 8)), ((1, 0), (4, 8, 5)), ((), ())):
        with pytest.raises(ValueError, match="each stage must have at least one layer, and widths one number for each"):
            models.HighwayNet(layers, widths)


SECOND = [pytest.param(gates, marks=pytest.mark.slow) for gates in (None, Gates(1.0, 1.0))]


@pytest.mark.parametrize("gates", [Gates(), Gates(carry="learned"), *SECOND])
def test_deep_perceptrons_are_those_of_plain_numpy(gates):
    model = models.DeepMLP(depth=5, width=6, num_classes=3, gates=gates)
    variables, images = drawn(model, (4, 4, 1)), np.random.default_rng(1).normal(size=(7, 4, 4, 1)).astype(np.float32)
    logits = jax.jit(lambda x: model.apply(variables, x, False))(images)
    params = numpy_reference.arrays(variables["params"])
    x = np.maximum(images.reshape(7, 16) @ params["first"]["kernel"] + params["first"]["bias"], 0)
    for i in range(3):
        layer = {name: each["kernel"][i] for name, each in params["rest"].items()}
        shift = {name: each["bias"][i] for name, each in params["rest"].items()}
        at = {name: x @ layer[name] + shift[name] for name in layer}
        y = np.maximum(at["fc"], 0)
        if gates == Gates(1.0, 1.0):
            y = y + x
        elif gates is not None:
            transform = sigmoid(at["transform_gate"])
            closing = sigmoid(at["carry_gate"]) if "carry_gate" in at else transform
            y = y * transform + x * (1 - closing)
        x = y
    expected = x @ params["fc"]["kernel"] + params["fc"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    start = models.init(model, (4, 4, 1), jax.random.key(0))["params"]["rest"]
    if gates is not None and gates.transform == "learned":
        np.testing.assert_allclose(start["transform_gate"]["bias"], jnp.full((3, 6), models.half_open_bias(3)))
