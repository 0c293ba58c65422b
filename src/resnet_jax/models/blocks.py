"""The building blocks of figures 2 and 5: basic and bottleneck, residual or plain, with or without gates."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.conv import Conv
from resnet_jax.models.gates import Gate, Gates, gated
from resnet_jax.models.layers import Shortcut


class BasicBlock(nn.Module):
    """3x3 convolutions of so many features, two of them (figure 2) or another number; the first one has the stride.

    For `shortcut`, `shortcut_padding`, `padding`, `gates` and `block_layers`, the number of convolutions, see `ResNet`.
    `norm` makes a batch norm, given a name; `last_scale` draws the scale of the last one of the residual branch.
    """

    features: int
    stride: int
    shortcut: str | None
    shortcut_padding: str
    norm: Any
    dtype: Any = jnp.float32
    last_scale: Any = nn.initializers.ones
    padding: str = "zeros"
    gates: Gates | None = None
    block_layers: int = 2

    @property
    def convolutions(self) -> tuple[tuple[int, int, int], ...]:
        """The features, the size and the stride of each convolution of the branch."""
        return tuple((self.features, 3, self.stride if i == 0 else 1) for i in range(self.block_layers))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ {self.convolutions[-1][0]}"]:
        y, last = x, len(self.convolutions)
        for i, (features, size, stride) in enumerate(self.convolutions, 1):
            y = Conv(features, size, stride, self.dtype, self.padding, name=f"conv{i}")(y)
            if i < last:
                y = nn.relu(self.norm(name=f"bn{i}")(y, train))
        y = self.norm(name=f"bn{last}", scale_init=self.last_scale)(y, train)
        return nn.relu(self.added(y, x, train))

    def added(
        self, branch: Float[Array, "b _h _w f"], x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b _h _w f"]:
        """The branch with the shortcut of `x` around it, where there is one."""
        if self.shortcut is None:
            return branch
        features, norm = branch.shape[-1], self.shortcut_norm
        shortcut = Shortcut(
            self.shortcut, features, self.stride, self.shortcut_padding, norm, self.dtype, name="shortcut"
        )(x, train)
        if self.gates is None:
            return branch + shortcut
        bias: Any = self.gates.bias
        return gated(
            branch,
            shortcut,
            self.gates,
            lambda name: Gate(features, 1, self.stride, bias, self.dtype, name=f"{name}_gate")(x),
        )

    @property
    def shortcut_norm(self) -> Any:
        """Makes the batch norm after a projection, or is None."""
        return self.norm


class BottleneckBlock(BasicBlock):
    """1x1 to reduce, 3x3, 1x1 to restore four times the channels (figure 5).

    `features` are those of the 3x3 convolution. For `bottleneck_stride` see `ResNet`.
    """

    bottleneck_stride: str = "1x1"

    @property
    def convolutions(self) -> tuple[tuple[int, int, int], ...]:
        """As of `BasicBlock`."""
        strides = (self.stride, 1) if self.bottleneck_stride == "1x1" else (1, self.stride)
        return (self.features, 1, strides[0]), (self.features, 3, strides[1]), (4 * self.features, 1, 1)
