"""Gates on the two paths of a layer: y = H(x) T(x) + x C(x), as highway networks have them (1505.00387).

A residual network is one whose gates T and C are the constant 1. So it is a highway network only where C does not
depend on T: the usual C = 1 - T leaves a plain layer (T = 1), a copy (T = 0), or something between.
"""

import dataclasses
import math
import numbers
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.conv import Conv


@dataclasses.dataclass(frozen=True)
class Gates:
    """What the branch and the shortcut of each block are multiplied by, at every position and in every channel.

    With them one has highway networks and the shortcuts of 1603.05027, table 1: constant scaling is
    `Gates(1.0, 0.5)` or `Gates(0.5, 0.5)`, exclusive gating `Gates("learned", "coupled")`, and shortcut-only gating
    `Gates(1.0, "learned")`.

    Attributes:
      transform: T, a constant; or "learned", the sigmoid of a linear function of the block's input.
      carry: C, a constant; "coupled", 1 - T; or "learned", one minus a sigmoid of its own, so that one bias means the
        same for both.
      bias: that the learned gates begin with, their weights being 0: T is sigmoid(bias), C one minus that. None is
        `half_open_bias` of the network's depth.

    >>> Gates(1.0, 1.0)
    Gates(transform=1.0, carry=1.0, bias=None)
    """

    transform: float | str = "learned"
    carry: float | str = "coupled"
    bias: float | None = None

    def __post_init__(self):
        for name, words in (("transform", ("learned",)), ("carry", ("learned", "coupled")), ("bias", (None,))):
            value = getattr(self, name)
            number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
            if not number and value not in words:
                raise ValueError(f"{name} is {value!r}, but it must be a number or {' or '.join(map(repr, words))}")


def check_gates(gates: Any) -> None:
    """Refuses what are no `Gates`, such as the word "coupled", with a ValueError."""
    if not isinstance(gates, Gates):
        raise ValueError(f"gates is {gates!r}, but it must be a resnet_jax.models.Gates, such as {Gates()}")


def half_open_bias(blocks: int) -> float:
    """The bias with which the carry gates of so many blocks let half of the input through: (1 - sigmoid(b))^blocks.

    It falls with depth, and must: at -2, the bias of the 19-layer highway network, 98 blocks carry 4e-6 of it. Less
    than one block is a ValueError.

    >>> [round(half_open_bias(blocks), 2) for blocks in (9, 27, 98)]
    [-2.52, -3.65, -4.95]
    """
    if blocks < 1:
        raise ValueError(f"there are {blocks!r} blocks, but gates need at least 1")
    # 1 - sigmoid(b) = 2^(-1 / blocks), solved for b.
    return math.log(math.expm1(math.log(2) / blocks))


def with_bias(gates: Gates, blocks: int) -> Gates:
    """The gates of a network of so many blocks, with the bias that theirs begin with.

    >>> with_bias(Gates(), 1).bias
    0.0
    """
    return gates if gates.bias is not None else dataclasses.replace(gates, bias=half_open_bias(blocks))


class Gate(nn.Module):
    """The sigmoid of a convolution with a bias: 1x1 around a block of several layers, as in 1603.05027.

    Its weights begin as 0 (the paper gives none of its own), so that the bias alone decides how open it is at first.
    """

    features: int
    size: int
    stride: int
    bias: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
        convolution = Conv(
            self.features,
            self.size,
            self.stride,
            self.dtype,
            use_bias=True,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.bias),
            name="conv",
        )
        return jax.nn.sigmoid(convolution(x))


def gated(
    branch: Float[Array, "*map f"], shortcut: Float[Array, "*map f"], gates: Gates, gate: Any
) -> Float[Array, "*map f"]:
    """The branch times T plus the shortcut times C; `gate(name)` computes a learned one, "transform" or "carry".

    >>> x, y = jnp.ones((1, 2)), 3 * jnp.ones((1, 2))
    >>> gated(y, x, Gates(0.5, "coupled"), None).tolist()
    [[2.0, 2.0]]
    """
    transform: Any = gate("transform") if gates.transform == "learned" else gates.transform
    if gates.carry == "coupled":
        carry: Any = 1 - transform
    else:
        carry = 1 - gate("carry") if gates.carry == "learned" else gates.carry
    return branch * transform + shortcut * carry
