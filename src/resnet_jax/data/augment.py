"""Pre-processing and augmentation on the device, as pure functions of (key, images)."""

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
    """

    mean: jax.Array
    std: jax.Array = flax.struct.field(default_factory=lambda: jnp.ones((1, 1, 1)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """uint8 images (batch, height, width, channels) -> float32."""
        return (images.astype(jnp.float32) - self.mean[None]) / self.std[None]


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
