"""The building blocks of figures 2 and 5: basic and bottleneck, residual or plain."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.conv import Conv
from resnet_jax.models.layers import Shortcut


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (figure 2) of so many features; the first one has the stride.

    For `shortcut` and `shortcut_padding` see `ResNet`. `norm` makes a batch norm, given a name; `last_scale` draws the
    scale of the last one of the residual branch.
    """

    features: int
    stride: int
    shortcut: str | None
    shortcut_padding: str
    norm: Any
    dtype: Any = jnp.float32
    last_scale: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        y = Conv(self.features, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        y = Conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=self.last_scale)(y, train)
        if self.shortcut is not None:
            y += Shortcut(
                self.shortcut, self.features, self.stride, self.shortcut_padding, self.norm, self.dtype, name="shortcut"
            )(x, train)
        return nn.relu(y)


class BottleneckBlock(BasicBlock):
    """1x1 to reduce, 3x3, 1x1 to restore four times the channels (figure 5).

    `features` are those of the 3x3 convolution. For `bottleneck_stride` see `ResNet`.
    """

    bottleneck_stride: str = "1x1"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ {4*self.features}"]:
        strides = (self.stride, 1) if self.bottleneck_stride == "1x1" else (1, self.stride)
        out = 4 * self.features
        y = Conv(self.features, 1, strides[0], dtype=self.dtype, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        y = Conv(self.features, 3, strides[1], dtype=self.dtype, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        y = Conv(out, 1, dtype=self.dtype, name="conv3")(y)
        y = self.norm(name="bn3", scale_init=self.last_scale)(y, train)
        if self.shortcut is not None:
            y += Shortcut(
                self.shortcut, out, self.stride, self.shortcut_padding, self.norm, self.dtype, name="shortcut"
            )(x, train)
        return nn.relu(y)
