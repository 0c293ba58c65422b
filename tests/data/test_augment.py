import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from resnet_jax.data.augment import pad_crop_mirror
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean


def numbered(batch, height=5, width=6, channels=2):
    """Images in which no two pixels are equal and none is 0, the padding."""
    count = batch * height * width * channels
    return np.arange(1, count + 1, dtype=np.float32).reshape(batch, height, width, channels)


def crop(image, top, left, flip, pad):
    """Slowly: the pixel of each place of the crop, 0 outside the image."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            source_y, source_x = y + top - pad, (width - 1 - x if flip else x) + left - pad
            if 0 <= source_y < height and 0 <= source_x < width:
                out[y, x] = image[source_y, source_x]
    return out


def test_per_pixel_mean():
    images = np.random.default_rng(0).integers(0, 256, (1000, 4, 5, 3), dtype=np.uint8)
    mean = per_pixel_mean(images)
    assert mean.dtype == np.float32
    assert mean.shape == (4, 5, 3)
    exact = [sum(int(value) for value in images[:, y, x, c]) / 1000 for y, x, c in np.ndindex(4, 5, 3)]
    np.testing.assert_allclose(mean.ravel(), exact, rtol=1e-6)


def test_preprocessing_subtracts_the_mean_and_does_not_scale():
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    centred = Preprocessing(jnp.full((1, 1, 1), 100.5))(images)
    assert centred.dtype == jnp.float32
    assert centred.ravel().tolist() == [-100.5, 154.5]


@pytest.mark.parametrize("mirror", [False, True])
def test_the_slow_version_with_the_same_draws(mirror):
    images, pad, key = numbered(40), 2, jax.random.key(3)
    offset_key, mirror_key = jax.random.split(key)
    offsets = np.asarray(jax.random.randint(offset_key, (40, 2), 0, 2 * pad + 1))
    flips = np.asarray(jax.random.bernoulli(mirror_key, 0.5, (40,))) & mirror
    expected = [crop(image, *at, flip, pad) for image, at, flip in zip(images, offsets, flips, strict=True)]
    np.testing.assert_array_equal(pad_crop_mirror(key, images, pad, mirror), np.stack(expected))


def test_every_crop_and_mirror_image_is_as_frequent_as_another():
    pad, batch = 1, 4000
    image = numbered(1)[0]
    kinds = {
        crop(image, top, left, flip, pad).tobytes(): (top, left, flip)
        for top in range(3)
        for left in range(3)
        for flip in (False, True)
    }
    assert len(kinds) == 18
    augmented = pad_crop_mirror(jax.random.key(0), np.broadcast_to(image, (batch, *image.shape)), pad, True)
    seen = [kinds[one.tobytes()] for one in np.asarray(augmented)]
    counts = np.array([seen.count(kind) for kind in kinds.values()])
    # Chi-squared with 17 degrees of freedom exceeds 40.8 once in a thousand.
    assert ((counts - batch / 18) ** 2).sum() / (batch / 18) < 40.8


def test_other_keys_draw_otherwise():
    images = numbered(16)
    first, second = (np.asarray(pad_crop_mirror(jax.random.key(seed), images, 2, True)) for seed in (0, 1))
    assert (first != second).any((1, 2, 3)).sum() > 8


def test_draws_do_not_depend_on_sharding():
    images, key = jnp.asarray(numbered(32)), jax.random.key(0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, P("data"))

    augment = jax.jit(pad_crop_mirror, static_argnums=(2, 3), out_shardings=sharding)
    sharded = augment(key, jax.device_put(images, sharding), 2, True)
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(sharded, pad_crop_mirror(key, images, 2, True))


def test_no_padding_and_no_mirror_is_the_identity():
    images = numbered(8)
    np.testing.assert_array_equal(pad_crop_mirror(jax.random.key(0), images, 0, False), images)
