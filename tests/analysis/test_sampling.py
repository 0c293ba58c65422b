"""What docs/looking.md says of 1x1 convolutions, strides and interpolation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from resnet_jax.analysis import upsample
from resnet_jax.models.conv import Conv
from resnet_jax.models.layers import zero_pad_shortcut

MAPS = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)


def test_a_convolution_of_one_pixel_is_a_dense_layer_on_the_channels():
    kernel = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    convolved = Conv(5, 1).apply({"params": {"kernel": kernel[None, None]}}, jnp.array(MAPS))
    dense = nn.Dense(5, use_bias=False).apply({"params": {"kernel": kernel}}, MAPS)
    np.testing.assert_allclose(convolved, dense, rtol=1e-5, atol=1e-6)


def test_a_stride_of_two_reads_a_quarter_of_the_positions():
    kernel = jnp.ones((1, 1, 3, 5))

    def projected(x):
        return Conv(5, 1, 2).apply({"params": {"kernel": kernel}}, x).sum()

    read = [jax.grad(projected)(MAPS), jax.grad(lambda x: zero_pad_shortcut(x, 5, 2, "end").sum())(MAPS)]
    expected = np.zeros((4, 6), bool)
    expected[::2, ::2] = True
    for gradient in read:
        assert (np.asarray(gradient != 0).any((0, 3)) == expected).all()


def test_stripes_of_one_pixel_alias_unless_they_are_averaged_first():
    stripes = np.tile(np.array([1.0, 0.0], np.float32), 4).reshape(1, 1, 8, 1).repeat(8, 1)
    for shift, seen in ((0, 1), (1, 0)):
        moved = np.roll(stripes, shift, 2)
        assert (np.asarray(zero_pad_shortcut(moved, 1, 2, "end")) == seen).all()
        assert (moved.reshape(4, 2, 4, 2).mean((1, 3)) == 0.5).all()


def test_interpolation_is_that_of_pillow_but_for_the_bicubic_filter():
    image = np.random.default_rng(2).uniform(0, 255, (1, 5, 7)).astype(np.float32)
    whole = Image.fromarray(image[0])
    for name, method in (("nearest", Image.Resampling.NEAREST), ("bilinear", Image.Resampling.BILINEAR)):
        np.testing.assert_allclose(upsample(image, 20, 28, name)[0], whole.resize((28, 20), method), atol=1e-2)

    def cubic(a):
        """One row by the definition of cubic convolution, with its border repeated."""

        def weight(d):
            d = abs(d)
            return (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4) * (d < 2)

        row, places = image[0, 0].astype(float), (np.arange(28) + 0.5) / 4 - 0.5
        taps = [np.floor(place).astype(int) + np.arange(-1, 3) for place in places]
        return [
            sum(weight(place - tap) * row[np.clip(tap, 0, 6)] for tap in each)
            for place, each in zip(places, taps, strict=True)
        ]

    np.testing.assert_allclose(upsample(image[:, :1], 1, 28, "bicubic")[0, 0], cubic(-0.75), atol=1e-2)
    assert np.abs(np.array(cubic(-0.75)) - np.array(cubic(-0.5))).max() > 1
