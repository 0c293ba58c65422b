"""Highway networks as they were published (1505.00387, 1507.06228): without batch norm, gates of the layers' own kind.

`ResNet` with `gates` is a highway network in the paper's form, for comparing gates with none; these two are the network
that the authors released (1507.06228, table 3) and what first showed depth (1505.00387, figure 1).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from resnet_jax.models import stacking
from resnet_jax.models.conv import Conv, he_normal
from resnet_jax.models.gates import Gate, Gates, check_gates, gated, with_bias
from resnet_jax.models.layers import averaged, halved


class HighwayConv(nn.Module):
    """y = ReLU(conv(x)) T(x) + x C(x), with 3x3 convolutions in the gates too."""

    gates: Gates
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = nn.relu(Conv(x.shape[-1], 3, dtype=self.dtype, use_bias=True, name="conv")(x))
        bias: Any = self.gates.bias
        return gated(y, x, self.gates, lambda name: Gate(x.shape[-1], 3, 1, bias, self.dtype, name=f"{name}_gate")(x))


class HighwayStage(nn.Module):
    """A 3x3 convolution to other channels, highway layers on these, stacked as `stacking` says, and 2x2 max pooling."""

    features: int
    layers: int
    gates: Gates
    pools: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
        x = nn.relu(Conv(self.features, 3, dtype=self.dtype, use_bias=True, name=stacking.FIRST)(x))
        x = _repeated(HighwayConv(self.gates, self.dtype, name=stacking.REST), x, self.layers)
        return halved(x) if self.pools else x


class HighwayNet(nn.Module):
    """The highway network of 19 layers and 2,256,838 parameters that its authors released: 1507.06228, table 3.

    A stage is a convolution, highway layers and, but for the last one, 2x2 max pooling. A 1x1 convolution, the average
    over positions and a classifier follow. The release's dropout is left out. The paper's table 6 has another one, of
    1507.06228, table 2: that ends in fully connected layers, and has 2.3M parameters too.

    Attributes:
      layers: highway layers in each stage.
      widths: channels of each stage, and of the 1x1 convolution.
      num_classes: outputs.
      gates: see `Gates`; the release has its default with a bias of -2. A bias of None is `half_open_bias` of all
        highway layers.
      dtype: of the computation; parameters are float32, and logits at least.
    """

    layers: tuple[int, ...] = (4, 5, 5)
    widths: tuple[int, ...] = (32, 80, 128, 100)
    num_classes: int = 10
    gates: Gates = Gates(bias=-2.0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        check_gates(self.gates)
        if len(self.widths) != len(self.layers) + 1 or min(self.layers, default=0) < 1:
            raise ValueError(
                f"layers is {self.layers} and widths {self.widths}, but each stage must have at least one layer, and "
                "widths one number for each stage and one for the 1x1 convolution"
            )
        super().__post_init__()

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Layers in each stage: its convolution and its highway layers."""
        return tuple(1 + layers for layers in self.layers)

    def setup(self):
        gates = with_bias(self.gates, sum(self.layers))
        for i, (layers, width) in enumerate(zip(self.layers, self.widths[:-1], strict=True), 1):
            setattr(self, f"stage{i}", HighwayStage(width, layers, gates, i < len(self.layers), self.dtype))
        self.conv = Conv(self.widths[-1], 1, dtype=self.dtype, use_bias=True)
        dtype = np.promote_types(self.dtype, jnp.float32)
        self.fc = nn.Dense(self.num_classes, dtype=dtype, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b {self.num_classes}"]:
        """The logits of pre-processed images, in float32 or wider; training and evaluation are the same."""
        return self.head(self.stages(images, train)[f"stage{len(self.layers)}"])

    def stages(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """The maps that each stage ("stage1", …) ends with; the last one's are after the 1x1 convolution."""
        del train
        x, maps = jnp.asarray(images, self.dtype), {}
        for i in range(1, len(self.layers) + 1):
            maps[f"stage{i}"] = x = getattr(self, f"stage{i}")(x)
        maps[f"stage{len(self.layers)}"] = nn.relu(self.conv(x))
        return maps

    def head(self, features: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b {self.num_classes}"]:
        """The logits of the maps that the last stage ends with."""
        return self.fc(averaged(features))

    def features(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b _"]:
        """What `fc` is given: the averages of the last maps, in float32 or wider."""
        return averaged(self.stages(images, train)[f"stage{len(self.layers)}"])


class DenseLayer(nn.Module):
    """y = ReLU(W x + b), alone or between gates."""

    gates: Gates | None

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b c"]:
        y = nn.relu(nn.Dense(x.shape[-1], kernel_init=he_normal, name="fc")(x))
        if self.gates is None:
            return y
        bias: Any = self.gates.bias

        def gate(name: str) -> jax.Array:
            start = nn.initializers.constant(bias)
            return jax.nn.sigmoid(
                nn.Dense(
                    x.shape[-1], kernel_init=nn.initializers.zeros, bias_init=start, dtype=x.dtype, name=f"{name}_gate"
                )(x)
            )

        return gated(y, x, self.gates, gate)


class DeepMLP(nn.Module):
    """Fully connected layers of one width between a first and a last one: plain, highway, or residual.

    Attributes:
      depth: layers with weights, at least 3: the first and the last are among them, and gates are not counted.
      width: outputs of each layer.
      num_classes: outputs of the last one.
      gates: None is a plain network, `Gates()` a highway one and `Gates(1.0, 1.0)` a residual one. A bias of None is
        `half_open_bias` of the network's depth.

    >>> from resnet_jax import models
    >>> network = models.DeepMLP(depth=10, width=8, num_classes=3, gates=models.Gates())
    >>> variables = models.init(network, (4, 4, 1), jax.random.key(0))
    >>> variables["params"]["rest"]["fc"]["kernel"].shape
    (8, 8, 8)
    """

    depth: int
    width: int
    num_classes: int
    gates: Gates | None = None

    def __post_init__(self):
        if self.depth < 3:
            raise ValueError(f"depth is {self.depth!r}, but a first and a last layer and one between them are 3")
        if self.gates is not None:
            check_gates(self.gates)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b {self.num_classes}"]:
        """The logits of images, whose pixels are one vector; training and evaluation are the same."""
        del train
        x = jnp.asarray(images, jnp.float32).reshape(len(images), -1)
        x = nn.relu(nn.Dense(self.width, kernel_init=he_normal, name="first")(x))
        gates = None if self.gates is None else with_bias(self.gates, self.depth - 2)
        x = _repeated(DenseLayer(gates, name=stacking.REST), x, self.depth - 2)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)


def _repeated(layer: Any, x: jax.Array, layers: int) -> jax.Array:
    """So many layers that are alike, one after the other, scanned."""
    scan = nn.scan(
        lambda layer, x: (layer(x), None),
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        length=layers,
    )
    return scan(layer, x)[0]
