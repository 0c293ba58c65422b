"""What is done to a network's images before it sees them."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num, UInt8

from resnet_jax.errors import short_repr

# Of ImageNet's RGB pixels in [0, 1], as torchvision, timm and akamaster's CIFAR networks use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@flax.struct.dataclass
class Preprocessing:
    """What a network's input has had done to it; it is kept in the checkpoint beside the weights.

    Attributes:
      mean: subtracted from the 0 to 255 pixels; (height, width, channels) or (1, 1, channels), float32.
      std: divides what is left; (1, 1, channels), float32. Ones in the paper, whose release does not scale its input.
      channel_order: "rgb" or "bgr" (the paper's release); images are RGB, `mean` and `std` are in the network's order.
      resize_size: what an image's shorter side becomes, in pixels, before its centre is cut out (256 in the paper);
        None is the longer side of the network's images.
      interpolation: of that resizing, "bilinear" or "bicubic".
    """

    mean: jax.Array
    std: jax.Array = flax.struct.field(default_factory=lambda: jnp.ones((1, 1, 1)))
    channel_order: str = flax.struct.field(default="rgb", pytree_node=False)
    resize_size: int | None = flax.struct.field(default=None, pytree_node=False)
    interpolation: str = flax.struct.field(default="bicubic", pytree_node=False)
    __repr__ = short_repr

    @classmethod
    def of_channels(
        cls, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, **fields: Any
    ) -> "Preprocessing":
        """Subtracts each channel's mean and divides by its standard deviation, both of pixels in [0, 1] and in the
        network's order of the channels; ImageNet's by default.

        >>> print(Preprocessing.of_channels(mean=[0.5], std=[0.25])(jnp.full((1, 1, 1, 1), 255)))
        [[[[2.]]]]
        """
        mean_array, std_array = (255 * jnp.array(each, jnp.float32)[None, None] for each in (mean, std))
        return cls(mean_array, std_array, **fields)

    def __call__(
        self, images: Num[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """RGB images (batch, height, width, channels), 0 to 255, uint8 or float -> float32.

        Where the images are not as large as a mean image, its mean for each channel is subtracted.
        """
        ordered = images[..., ::-1] if self.channel_order == "bgr" else images
        mean = self.mean if self.mean.shape[:2] == images.shape[1:3] else self.mean.mean((0, 1), keepdims=True)
        return (jnp.asarray(ordered, jnp.float32) - mean[None]) / self.std[None]

    def resized_to(self, image_shape: Sequence[int]) -> int:
        """What the shorter side of an image becomes, in pixels, for a network of images (height, width, …)."""
        return self.resize_size or max(image_shape[:2])


def per_pixel_mean(
    images: UInt8[Array | np.ndarray, "count height width channels"],
) -> Float32[np.ndarray, "height width channels"]:
    """The mean image of a training set (paper section 4.2): (count, height, width, channels) uint8 -> float32."""
    return np.asarray(images).mean(0, dtype=np.float64).astype(np.float32)
