"""`padding="wrap"`: the pixels of the other side, with which a network commutes with shifts of its total stride."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

from resnet_jax import models
from resnet_jax.models.conv import Conv
from resnet_jax.models.layers import max_pool

CIFAR = models.ResNet((1, 1), (4, 8), False, "cifar", 5, "B", padding="wrap")
IMAGENET = models.ResNet((1, 1), (4, 8), False, "imagenet", 5, "A", padding="wrap")


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 5), (3, 2, 6), (7, 2, 8), (1, 2, 4), (3, 1, 1)])
def test_a_convolution_sees_the_pixels_of_the_other_side(size, stride, side):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 3, 4)).astype(np.float32)
    y = Conv(4, size, stride, padding="wrap").apply({"params": {"kernel": jnp.asarray(kernel)}}, jnp.asarray(x))
    pad = (size // 2,) * 2
    expected = numpy_reference.conv(x, kernel, stride, (pad, pad), "wrap")
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("alignment", "pads"), [("caffe", (0, 1)), ("torch", (1, 1))])
def test_pooling_sees_the_pixels_of_the_other_side(alignment, pads):
    x = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), pads, pads, (0, 0)), "wrap")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), alignment, wrap=True), windows.max((-2, -1)))


@pytest.mark.parametrize(("model", "stride"), [(CIFAR, 2), pytest.param(IMAGENET, 8, marks=pytest.mark.slow)])
def test_a_shift_by_the_total_stride_shifts_the_maps_and_keeps_the_logits(model, stride):
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = models.init(model, (32, 32, 3), jax.random.key(0))

    def outputs(images):
        maps = model.apply(variables, images, False, method="stages")["stage2"]
        return maps, model.apply(variables, maps, method="head")

    outputs = jax.jit(outputs)
    maps, logits = outputs(images)
    moved, same = outputs(np.roll(images, (stride, -2 * stride), (1, 2)))
    scale = np.abs(maps).max()
    np.testing.assert_allclose(moved, np.roll(maps, (1, -2), (1, 2)), rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(same, logits, rtol=0, atol=1e-6 * np.abs(logits).max())
    # Zero padding tells the border, and half a stride another sampling.
    other = outputs(np.roll(images, stride // 2, 1))[1]
    assert np.abs(other - logits).max() > 1e-3 * np.abs(logits).max()
    with_zeros = [
        model.clone(padding="zeros").apply(variables, each, False) for each in (images, np.roll(images, stride, 1))
    ]
    assert np.abs(with_zeros[0] - with_zeros[1]).max() > 1e-3 * np.abs(logits).max()
