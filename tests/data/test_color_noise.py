"""What is done to photographs on the device, against NumPy in float64 with the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from resnet_jax.data.augment import augment_images, pca_lighting
from resnet_jax.data.preprocessing import Preprocessing

# Section 3.1 of the notes on the paper: rows are R, G, B, columns are components; of RGB in [0, 1].
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def pictures(batch, height=6, width=5):
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def slow_noise(key, images, scale):
    """sum_j p_j alpha_j lambda_j for each image, alpha_j ~ N(0, scale^2)."""
    draws = np.asarray(jax.random.normal(key, (len(images), 3)), np.float64)
    noisy = images.astype(np.float64)
    for image, alphas in zip(noisy, scale * draws, strict=True):
        for j in range(3):
            image += 255 * COMPONENTS[:, j] * alphas[j] * EIGENVALUES[j]
    return noisy


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_formula_with_the_same_draws(scale):
    images, key = pictures(32), jax.random.key(3)
    noisy = np.asarray(pca_lighting(key, images, scale))
    assert noisy.dtype == jnp.float32
    np.testing.assert_allclose(noisy, slow_noise(key, images, scale), atol=2e-4)
    assert np.abs(noisy - images).max() > 20 * scale
    # Of bytes and of floats, and not clipped.
    np.testing.assert_array_equal(pca_lighting(key, images.astype(np.float32), scale), noisy)
    assert noisy.min() < 0
    assert noisy.max() > 255


def test_one_colour_for_each_image():
    images = pictures(64)
    shifts = np.asarray(pca_lighting(jax.random.key(0), images, 0.1)) - images
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape), atol=1e-4)
    assert len(np.unique(shifts[:, 0, 0], axis=0)) == 64
    other = np.asarray(pca_lighting(jax.random.key(1), images, 0.1)) - images
    assert np.abs(other - shifts)[:, 0, 0].max(1).min() > 0.01


def test_the_covariance_of_the_colours():
    count = 50_000
    shifts = np.asarray(pca_lighting(jax.random.key(0), np.zeros((count, 1, 1, 3), np.uint8), 0.1), np.float64)
    shifts = shifts.reshape(count, 3) / 255
    covariance = COMPONENTS @ np.diag((0.1 * EIGENVALUES) ** 2) @ COMPONENTS.T
    # Where the covariance is that, these have the covariance 1, with standard errors of sqrt(2 / count) or less.
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), shifts.T)
    np.testing.assert_allclose(np.cov(whitened), np.eye(3), atol=5 * (2 / count) ** 0.5)
    np.testing.assert_allclose(whitened.mean(1), 0, atol=5 * count**-0.5)
    # 5.5 grey levels along the first component.
    assert np.std(255 * shifts @ COMPONENTS[:, 0]) == pytest.approx(5.546, rel=0.02)


def slow_preprocessing(images, mean, std, bgr):
    ordered = images.astype(np.float64)[..., ::-1] if bgr else images.astype(np.float64)
    mean = np.asarray(mean, np.float64)
    if mean.shape[:2] != images.shape[1:3]:
        mean = np.stack([mean[..., c].mean() for c in range(3)])
    return (ordered - mean) / np.asarray(std, np.float64)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("mean_shape", [(6, 5), (1, 1), (9, 7)])
@pytest.mark.parametrize("divided", [False, True])
def test_preprocessing(order, mean_shape, divided):
    random, images = np.random.default_rng(0), pictures(4)
    mean = random.uniform(90, 140, (*mean_shape, 3)).astype(np.float32)
    std = np.array([[[58.4, 57.1, 57.4]]], np.float32) if divided else np.ones((1, 1, 3), np.float32)
    ready = Preprocessing(jnp.asarray(mean), jnp.asarray(std), channel_order=order)(images)
    assert ready.dtype == jnp.float32
    np.testing.assert_allclose(ready, slow_preprocessing(images, mean, std, order == "bgr"), rtol=1e-5, atol=1e-4)


def test_the_papers_release():
    """BGR, 0 to 255, the mean image subtracted and nothing divided."""
    images, mean = pictures(2), np.random.default_rng(0).uniform(90, 140, (6, 5, 3)).astype(np.float32)
    ready = np.asarray(Preprocessing(jnp.asarray(mean), channel_order="bgr")(images))
    for row, column in np.ndindex(6, 5):
        red, green, blue = images[1, row, column].astype(float)
        expected = np.array((blue, green, red)) - mean[row, column]
        np.testing.assert_allclose(ready[1, row, column], expected, atol=1e-4)


# With a mean that differs from pixel to pixel, it matters what comes first.
PREPROCESSING = Preprocessing(
    jnp.asarray(np.random.default_rng(5).uniform(0, 255, (6, 5, 3)), jnp.float32), channel_order="bgr"
)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("mirrored", [False, True])
def test_noise_then_preprocessing_then_mirror_images(noise, mirrored):
    images, key = pictures(40), jax.random.key(7)
    noise_key, mirror_key = jax.random.split(key)
    expected = slow_preprocessing(slow_noise(noise_key, images, noise), PREPROCESSING.mean, 1.0, bgr=True)
    flips = np.asarray(jax.random.bernoulli(mirror_key, 0.5, (40,))) & mirrored
    expected = np.stack([image[:, ::-1] if flip else image for image, flip in zip(expected, flips, strict=True)])
    assert mirrored == (0 < flips.sum() < 40)
    np.testing.assert_allclose(
        augment_images(key, images, PREPROCESSING, noise, mirrored), expected, rtol=1e-5, atol=5e-4
    )


def test_half_of_the_images_are_mirrored():
    images = np.zeros((4000, 1, 2, 3), np.uint8)
    images[:, 0, 1] = 200
    zero = Preprocessing(jnp.zeros((1, 1, 3)))
    seen = np.asarray(augment_images(jax.random.key(0), images, zero, 0.0, True))[:, 0, :, 0]
    assert set(map(tuple, seen.tolist())) == {(0, 200), (200, 0)}
    # Five standard deviations of a binomial distribution.
    assert abs((seen[:, 0] == 200).sum() - 2000) < 5 * 1000**0.5


def test_draws_do_not_depend_on_sharding():
    images, key = pictures(32), jax.random.key(0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, P("data"))
    augment = jax.jit(augment_images, static_argnums=(3, 4), out_shardings=sharding)
    images = jax.device_put(images, sharding)
    sharded = augment(key, images, PREPROCESSING, 0.1, True)
    assert len(sharded.sharding.device_set) == 8
    one = jax.jit(augment_images, static_argnums=(3, 4))(key, pictures(32), PREPROCESSING, 0.1, True)
    np.testing.assert_allclose(sharded, one, atol=1e-4)
    assert "all-" not in augment.lower(key, images, PREPROCESSING, 0.1, True).compile().as_text()
