"""VGG against plain NumPy in torch's order of channels, its parameters, and its dropout."""

import jax
import numpy as np
import numpy_reference
import pytest

from resnet_jax import models

SMALL = models.VGG((2, 1), (4, 6), num_classes=3, hidden=(8, 7))


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = models.abstract_variables(SMALL, (8, 12, 3))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)


def images():
    return np.random.default_rng(1).normal(size=(2, 8, 12, 3)).astype(np.float32)


def test_logits_are_those_of_plain_numpy_and_of_torchs_order_of_weights(variables):
    params, x = numpy_reference.arrays(variables["params"]), images()
    for stage in ("stage1", "stage2"):
        for layer in params[stage].values():
            x = np.maximum(numpy_reference.conv(x, layer["kernel"], 1, ((1, 1), (1, 1))) + layer["bias"], 0)
        x = x.reshape(2, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
    maps = x
    # As torch has it: (outputs, channels, height, width), applied to maps (channels, height, width).
    weight = np.random.default_rng(2).normal(size=(8, 6, 2, 3)).astype(np.float32)
    x = np.maximum(np.einsum("bhwc,ochw->bo", x, weight) + params["fc6"]["bias"], 0)
    hidden = x = np.maximum(x @ params["fc7"]["kernel"] + params["fc7"]["bias"], 0)
    expected = x @ params["fc"]["kernel"] + params["fc"]["bias"]

    kernel = weight.reshape(8, 6, 2, 3).transpose(2, 3, 1, 0).reshape(-1, 8)
    given = {"params": {**variables["params"], "fc6": {**variables["params"]["fc6"], "kernel": kernel}}}

    def outputs(images):
        found = SMALL.apply(given, images, False, method="stages")["stage2"]
        return (
            SMALL.apply(given, images, False),
            found,
            SMALL.apply(given, found, method="head"),
            SMALL.apply(given, images, False, method="features"),
        )

    logits, found, from_maps, features = jax.jit(outputs)(images())
    for actual, wanted in ((logits, expected), (found, maps), (from_maps, expected), (features, hidden)):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_parameters_are_those_of_the_published_networks():
    for name, count in (("vgg16", 138_357_544), ("vgg19", 143_667_240)):
        shapes = models.abstract_variables(models.create(name), (224, 224, 3))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_dropout_zeroes_half_in_training_and_nothing_else(variables):
    model = SMALL.clone(hidden=(8, 400))
    fc7 = {"kernel": np.zeros((8, 400), np.float32), "bias": np.ones(400, np.float32)}  # no unit is off by itself
    drawn = {"params": {**variables["params"], "fc7": fc7}}
    apply = jax.jit(lambda key: model.apply(drawn, images(), True, method="features", rngs={"dropout": key}))
    first, second = (np.asarray(apply(jax.random.key(seed))) for seed in (0, 1))
    for kept in (first, second):
        assert 0.4 < np.mean(kept == 0) < 0.6
        assert set(kept.ravel()) == {0.0, 2.0}
    assert (first != second).any()
    assert (np.asarray(model.apply(drawn, images(), False, method="features")) == 1).all()
    # Without dropout training needs no key.
    model.clone(dropout=0.0).apply(drawn, images(), True, method="features")
