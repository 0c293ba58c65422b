"""Full pre-activation (1603.05027, figure 4e): batch norm and ReLU before each convolution, and a clear shortcut path.

As in the paper's appendix, the stem's activation serves the first block of all, and another activation follows the last
one (`resnet.Stage`). As in the authors' code, a block that changes the dimensions takes its shortcut from the activated
input, and its projection has no batch norm.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from resnet_jax.models.blocks import BasicBlock, BottleneckBlock
from resnet_jax.models.conv import Conv


class PreActBlock(BasicBlock):
    """`BasicBlock` in the other order; `activated` says that its input comes from a ReLU already."""

    activated: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ {self.convolutions[-1][0]}"]:
        changes = self.stride != 1 or x.shape[-1] != self.convolutions[-1][0]
        y = x
        for i, (features, size, stride) in enumerate(self.convolutions, 1):
            if i > 1 or not self.activated:
                y = nn.relu(self.norm(name=f"bn{i}")(y, train))
            if i == 1 and changes:
                x = y
            y = Conv(features, size, stride, self.dtype, self.padding, name=f"conv{i}")(y)
        return self.added(y, x, train)

    @property
    def shortcut_norm(self) -> Any:
        """None: a projection has no batch norm."""
        return None


class PreActBottleneckBlock(PreActBlock, BottleneckBlock):
    """`BottleneckBlock` in the other order."""
