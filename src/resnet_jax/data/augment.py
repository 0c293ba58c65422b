"""Pre-processing and augmentation on the device, as pure functions of (key, images)."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Preprocessing:
    """What a network's input has had done to it; it is kept in the checkpoint beside the weights.

    Attributes:
      mean: subtracted from the 0 to 255 pixels; (height, width, channels) or (1, 1, channels), float32.
      std: divides what is left; (1, 1, channels), float32. Ones in the paper, whose release does not scale its input.
      channel_order: "rgb" or "bgr" (the paper's release); images are RGB, `mean` and `std` are in the network's order.
      shorter_side: what a photograph is resized to, in pixels, before its centre is cut out (256 in the paper); None is
        the side of the network's images.
      interpolation: of that resizing, "bilinear" or "bicubic".
    """

    mean: jax.Array
    std: jax.Array = flax.struct.field(default_factory=lambda: jnp.ones((1, 1, 1)))
    channel_order: str = flax.struct.field(default="rgb", pytree_node=False)
    shorter_side: int | None = flax.struct.field(default=None, pytree_node=False)
    interpolation: str = flax.struct.field(default="bicubic", pytree_node=False)

    def __call__(self, images: jax.Array) -> jax.Array:
        """RGB images (batch, height, width, channels), 0 to 255, uint8 or float -> float32.

        Where the images are not as large as a mean image, its mean for each channel is subtracted.
        """
        ordered = images[..., ::-1] if self.channel_order == "bgr" else images
        mean = self.mean if self.mean.shape[:2] == images.shape[1:3] else self.mean.mean((0, 1), keepdims=True)
        return (ordered.astype(jnp.float32) - mean[None]) / self.std[None]

    def resized_to(self, image_shape: Sequence[int]) -> int:
        """What the shorter side of a photograph becomes, in pixels, for a network of images (height, width, …)."""
        return self.shorter_side or max(image_shape[:2])


def per_pixel_mean(images: np.ndarray) -> np.ndarray:
    """The mean image of a training set (paper section 4.2): (count, height, width, channels) uint8 -> float32."""
    return images.mean(0, dtype=np.float64).astype(np.float32)


def mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image (batch, height, width, channels), left to right, with probability one half."""
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def pad_crop_mirror(key: jax.Array, images: jax.Array, pad: int, mirrored: bool) -> jax.Array:
    """The paper's CIFAR-10 augmentation (section 4.2): zero padding, a random crop of the old size, a random mirror
    image.

    Applied after the mean is subtracted, so that the padding is the mean grey (the paper leaves the order open).

    Args:
      key: of this batch; the draws do not depend on how the batch is sharded.
      images: (batch, height, width, channels) float.
      pad: pixels added on each side.
      mirrored: whether half of the images are mirrored.
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


def color_noise(key: jax.Array, images: jax.Array, scale: float) -> jax.Array:
    """AlexNet's colour augmentation (paper section 3.4): one colour, drawn for each image, is added to all its pixels.

    The colour is the sum of the principal components of ImageNet's colours, each times its eigenvalue and a draw from
    N(0, scale²). The eigenvalues are variances, so the formula is not scale-free: it is applied to RGB in [0, 1].

    Args:
      key: of this batch.
      images: RGB (batch, height, width, 3), 0 to 255.
      scale: 0.1 in AlexNet: 5.5 grey levels along the first component.

    Returns:
      float32, not clipped.
    """
    draws = scale * jax.random.normal(key, (images.shape[0], 3))
    shift = jnp.einsum("cp,bp->bc", _EIGENVECTORS, draws * _EIGENVALUES[None], precision="highest")
    return images.astype(jnp.float32) + 255 * shift[:, None, None]


def augment_photographs(
    key: jax.Array, images: jax.Array, preprocessing: Preprocessing, noise: float, mirrored: bool
) -> jax.Array:
    """What is left of the paper's ImageNet augmentation (section 3.4) when the windows are cut: colour noise,
    pre-processing, mirror images.

    The mean image is subtracted before mirroring, as in Caffe.

    Args:
      key: of this batch; the draws do not depend on how the batch is sharded.
      images: (batch, height, width, 3) uint8, RGB.
      preprocessing: of the run.
      noise: see `color_noise`; 0 for none.
      mirrored: whether half of the images are mirrored.
    """
    noise_key, mirror_key = jax.random.split(key)
    noisy = color_noise(noise_key, images, noise) if noise else images
    ready = preprocessing(noisy)
    return mirror(mirror_key, ready) if mirrored else ready
