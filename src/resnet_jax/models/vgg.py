"""VGG-16 and VGG-19 (1409.1556), with which the paper compares costs and errors: biases, and no batch norm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from resnet_jax.models.conv import Conv
from resnet_jax.models.layers import halved

# 3x3 convolutions before each pooling; three more layers are fully connected.
VGG_STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGGStage(nn.Module):
    """3x3 convolutions, each with a ReLU, and 2x2 max pooling of stride 2."""

    features: int
    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
        for i in range(1, self.layers + 1):
            x = nn.relu(Conv(self.features, 3, dtype=self.dtype, use_bias=True, name=f"conv{i}")(x))
        return halved(x)


class VGG(nn.Module):
    """A VGG network. Its images have one size, for which `models.init` draws its variables: "fc6" sees whole maps.
    Each stage halves them: images of VGG-16 and VGG-19 have at least 32 x 32 pixels, smaller ones are a ValueError.

    The last map is flattened as (height, width, channels), that is how fc6's kernel is ordered; torch's is (channels,
    height, width): `weight.reshape(4096, 512, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 4096)` turns it into this one.

    Attributes:
      stage_sizes: convolutions in each stage.
      widths: channels of each stage.
      num_classes: outputs.
      hidden: outputs of the layers "fc6" and "fc7".
      dropout: share of the outputs of these that is zeroed in training, which then wants `rngs={"dropout": key}`.
        `training.make_train_step` gives none: 0.0 for that.
      dtype: of the computation; parameters are float32, and logits at least.

    >>> from resnet_jax import models
    >>> network = models.VGG((1, 1), (4, 8), num_classes=3, hidden=(16, 16))
    >>> variables = models.init(network, (8, 8, 3), jax.random.key(0))
    >>> network.apply(variables, jnp.zeros((2, 8, 8, 3)), train=False).shape
    (2, 3)
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    hidden: tuple[int, int] = (4096, 4096)
    dropout: float = 0.5
    dtype: Any = jnp.float32

    def setup(self):
        for i, (layers, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            setattr(self, f"stage{i}", VGGStage(width, layers, self.dtype))
        # Deviations of [13] (1502.01852), which the paper's section 3.4 follows: 0.01 of the first two.
        self.fc6, self.fc7 = (
            nn.Dense(size, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01)) for size in self.hidden
        )
        dtype = np.promote_types(self.dtype, jnp.float32)
        self.fc = nn.Dense(self.num_classes, dtype=dtype, kernel_init=nn.initializers.normal(0.001))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b {self.num_classes}"]:
        """The logits of pre-processed images, in float32 or wider; `train` is whether to drop out."""
        return self.fc(self.features(images, train))

    def stages(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """The maps that each stage ("stage1", …) ends with, pooled; `train` changes nothing, it is there as a
        `ResNet`'s.
        """
        del train
        x, maps = jnp.asarray(images, self.dtype), {}
        for i in range(1, len(self.stage_sizes) + 1):
            maps[f"stage{i}"] = x = getattr(self, f"stage{i}")(x)
        return maps

    def head(self, features: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b {self.num_classes}"]:
        """The logits of the maps that the last stage ends with, as in evaluation."""
        return self.fc(self._hidden(features, train=False))

    def features(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b {self.hidden[1]}"]:
        """What `fc` is given: the outputs of fc7."""
        return self._hidden(self.stages(images, train)[f"stage{len(self.stage_sizes)}"], train)

    def _hidden(self, maps: Any, train: bool) -> jax.Array:
        x = jnp.asarray(maps, self.dtype).reshape(len(maps), -1)
        for layer in (self.fc6, self.fc7):
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return x
