"""Augmentation on the device, as pure functions of (key, images)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray, Shaped, UInt8

from resnet_jax.data.preprocessing import Preprocessing


def mirror(
    key: PRNGKeyArray, images: Shaped[Array | np.ndarray, "batch height width channels"]
) -> Shaped[Array, "batch height width channels"]:
    """Mirrors each image (batch, height, width, channels), left to right, with probability one half."""
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def pad_crop_mirror(
    key: PRNGKeyArray, images: Float[Array | np.ndarray, "batch height width channels"], pad: int, mirrored: bool
) -> Float[Array, "batch height width channels"]:
    """The paper's CIFAR-10 augmentation (section 4.2): `pad` zeros on each side, a random crop of the old size, and, if
    asked for, half of the images mirrored.

    Applied after the mean is subtracted, so that the padding is the mean grey (the paper leaves the order open). The
    draws do not depend on how the batch is sharded.
    """
    batch, height, width, channels = images.shape
    offset_key, mirror_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * pad + 1)
    crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, channels)))
    cropped = crop(padded, offsets)
    return mirror(mirror_key, cropped) if mirrored else cropped


# Eigenvalues and, in columns, eigenvectors of the covariance of ImageNet's RGB pixels, scaled to [0, 1], as
# fb.resnet.torch has them; AlexNet's paper describes the noise and prints no values.
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def pca_lighting(
    key: PRNGKeyArray, images: Num[Array | np.ndarray, "batch height width 3"], std: float
) -> Float[Array, "batch height width 3"]:
    """AlexNet's colour augmentation (paper section 3.4): one colour, drawn for each image, is added to all its pixels.

    The colour is the sum of the principal components of ImageNet's colours, each times its eigenvalue and a draw from
    N(0, std²). The eigenvalues are variances, so the formula is not scale-free: it is applied to RGB in [0, 1].

    Args:
      key: of this batch.
      images: RGB (batch, height, width, 3), 0 to 255; what is returned is float32, not clipped.
      std: 0.1 in AlexNet: 5.5 grey levels along the first component.
    """
    draws = std * jax.random.normal(key, (images.shape[0], 3))
    shift = jnp.einsum("cp,bp->bc", _EIGENVECTORS, draws * _EIGENVALUES[None], precision="highest")
    return jnp.asarray(images, jnp.float32) + 255 * shift[:, None, None]


def augment_images(
    key: PRNGKeyArray,
    images: UInt8[Array | np.ndarray, "batch height width 3"],
    preprocessing: Preprocessing,
    pca_lighting_std: float,
    mirrored: bool,
) -> Float[Array, "batch height width 3"]:
    """What is left of the paper's ImageNet augmentation (section 3.4) when the windows are cut: colour noise (see
    `pca_lighting`; 0 for none), pre-processing, and half of the images mirrored: (batch, height, width, 3) RGB.

    The mean image is subtracted before mirroring, as in Caffe. The draws do not depend on how the batch is sharded.
    """
    noise_key, mirror_key = jax.random.split(key)
    noisy = pca_lighting(noise_key, images, pca_lighting_std) if pca_lighting_std else images
    ready = preprocessing(noisy)
    return mirror(mirror_key, ready) if mirrored else ready
