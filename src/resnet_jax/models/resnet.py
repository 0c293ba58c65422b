"""The paper's networks: a stem, stages of blocks, and a linear classifier on globally averaged features.

The same frame holds the networks that the paper is compared with block by block: gated ones, and pre-activation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from resnet_jax.models import stacking
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock
from resnet_jax.models.conv import Conv
from resnet_jax.models.gates import Gates, check_gates, with_bias
from resnet_jax.models.layers import BatchNorm, averaged, max_pool, on_cpu
from resnet_jax.models.preact import PreActBlock, PreActBottleneckBlock

_CHOICES = {
    "stem": ("imagenet", "cifar"),
    "shortcut": ("A", "B", "C", None),
    "shortcut_padding": ("end", "both"),
    "bottleneck_stride": ("1x1", "3x3"),
    "stem_pool_padding": ("caffe", "torch"),
    "padding": ("zeros", "wrap"),
    "block_layers": (1, 2, 3),
}

_STEM = ("conv1", "bn1")


def part_of(name: str) -> str:
    """The part of a network that its parameters of this name, on the highest level, belong to.

    >>> [part_of(name) for name in ("conv1", "bn1", "stage1", "fc")]
    ['stem', 'stem', 'stage1', 'fc']
    """
    return "stem" if name in _STEM else name


# What the gradient of scanned blocks keeps: everything else is computed again from it by elementwise operations. On 2
# cores a training step of ResNet-110 with 32 images is 1.12 times as fast by it, those of ResNet-20 and ResNet-50 1.05
# times; the program of ResNet-110 takes 223 MiB instead of 312.
_KEPT = jax.checkpoint_policies.save_only_these_names("resnet_jax.conv", "resnet_jax.moments")


# Blocks of a stage up to which accelerators get them written out. A loop stores what the backward pass needs in stacks
# and reads it from them: on an H200, in bfloat16, a step of ResNet-50 with 256 images took 46.4 ms with loops and 38.6
# without, and ResNet-20's with 128 images 2.5 and 2.1. ResNet-152 has 36 blocks in a stage; ResNet-1202 has 200.
_WRITTEN_OUT = 40


class Stage(nn.Module):
    """Blocks on feature maps of one size: the first changes the dimensions, the others are identical and so scanned.

    Their variables are stacked (see `stacking`), whether the scan is rolled or unrolled. Rolled, it keeps compile time
    and program size from growing with depth (ResNet-1202 has 199 identical blocks in each stage). `first` is the first
    block where it is of another kind than `block`; `last_norm` makes a batch norm that ends the stage, with a ReLU.
    With `remat` the blocks themselves say what is kept for the backward pass.
    """

    block: Any
    blocks: int
    stride: int
    unroll: bool | None
    remat: bool
    first: Any = None
    last_norm: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ _"]:
        x = (self.first or self.block)(stride=self.stride, name=stacking.FIRST)(x, train)
        if self.blocks > 1:
            unroll = not on_cpu() and self.blocks <= _WRITTEN_OUT if self.unroll is None else self.unroll

            def block(block: nn.Module, x: jax.Array) -> tuple[jax.Array, None]:
                return block(x, train), None

            scan = nn.scan(
                # A loop keeps the two computations apart; blocks that are written out are slower with it.
                block if unroll or self.remat else nn.remat(block, policy=_KEPT, prevent_cse=False),
                variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
                split_rngs={"params": True},
                length=self.blocks - 1,
                # One more than the length: with just the length JAX leaves a loop of a single turn.
                unroll=self.blocks if unroll else 1,
            )
            x, _ = scan(self.block(stride=1, name=stacking.REST), x)
        return x if self.last_norm is None else nn.relu(self.last_norm(name="bn")(x, train))


class ResNet(nn.Module):
    """A residual network of the paper, or its plain twin.

    Attributes:
      stage_sizes: blocks in each stage.
      widths: channels of the 3x3 convolutions in each stage.
      bottleneck: three-layer blocks (ImageNet 50, 101, 152) instead of two-layer ones.
      stem: "imagenet" is a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2, "cifar" one 3x3 convolution.
      num_classes: outputs.
      shortcut: "A", "B", "C" (paper section 3.3), or None for the plain twin.
      shortcut_padding: where option A puts its zero channels: "end" (as fb.resnet.torch), or "both" (as akamaster's
        CIFAR nets).
      bottleneck_stride: the bottleneck's strided convolution: "1x1" (the first, as the paper's release), or "3x3"
        (called v1.5).
      stem_pool_padding: of the stem's pooling, "caffe" (the paper's release) or "torch"; see `layers.max_pool`.
      momentum, epsilon, bn_group_size, axis_name: of the batch norms; see `layers.BatchNorm`.
      dtype: of the computation; parameters are float32, and so are statistics and logits at least.
      remat: keeps only what each block begins with for the backward pass, and computes the rest again: part of the
        memory for a third more arithmetic.
      unroll: writes every block of a stage out instead of scanning; same parameters, same result, a larger program,
        which keeps more for the backward pass. None does so on accelerators, in stages of up to 40 blocks, where it is
        faster.
      zero_init_residual: the last batch norm of each residual branch begins with a scale of 0, so that each block
        begins as its shortcut (1706.02677, section 5.1).
      freeze: "stem", or "stage1" and so on, is frozen with all before it, "backbone" is all but the head "fc". What is
        frozen normalises by its running statistics and keeps them, also in training; no gradient enters it, so that it
        has no backward pass, and `training.step` leaves its parameters as they are.
      live_statistics: frozen parts normalise by the batch's statistics in training, and their running ones move.
      padding: of every 3x3 and 7x7 convolution and of the stem's pooling: "zeros", or "wrap", the pixels of the other
        side. With it the network commutes with circular shifts by its total stride, where the stages' strides divide
        the image's sides.
      block_layers: convolutions in a basic block, 1, 2 or 3 (paper section 3.2); a bottleneck has three of its own.
      gates: of a highway network: what multiplies each branch and each shortcut; None leaves both as they are.
      preactivation: batch norm and ReLU come before each convolution (1603.05027) instead of after it, see `preact`.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    stem: str
    num_classes: int
    shortcut: str | None
    shortcut_padding: str = "end"
    bottleneck_stride: str = "1x1"
    stem_pool_padding: str = "caffe"
    momentum: float = 0.9
    epsilon: float = 1e-5
    bn_group_size: int | None = None
    axis_name: tuple[str, ...] | None = None
    dtype: Any = jnp.float32
    remat: bool = False
    unroll: bool | None = None
    zero_init_residual: bool = False
    freeze: str | None = None
    live_statistics: bool = False
    padding: str = "zeros"
    block_layers: int = 2
    gates: Gates | None = None
    preactivation: bool = False

    def __post_init__(self):
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}, but it must be one of {choices}")
        if len(self.stage_sizes) != len(self.widths) or min(self.stage_sizes, default=0) < 1:
            raise ValueError(
                f"stage_sizes {self.stage_sizes} and widths {self.widths} must be of the same stages, each of at least "
                "one block"
            )
        if self.bottleneck and self.block_layers != 2:
            raise ValueError(f"block_layers={self.block_layers} is for basic blocks: a bottleneck has three of its own")
        if self.zero_init_residual and self.shortcut is None:
            raise ValueError("zero_init_residual is for residual networks: a plain one's blocks would begin as zero")
        if self.zero_init_residual and self.preactivation:
            raise ValueError("zero_init_residual is not for preactivation: no gradient passes a ReLU of zeros")
        if self.gates is not None:
            check_gates(self.gates)
        if self.gates is not None and self.shortcut is None:
            raise ValueError("gates are on branches and shortcuts, and a plain network has no shortcuts")
        if self.freeze not in (choices := (None, *self.parts[:-1], "backbone")):
            raise ValueError(f"freeze is {self.freeze!r}, but the parts of this network are {', '.join(choices[1:])}")
        super().__post_init__()

    @property
    def parts(self) -> tuple[str, ...]:
        """What the network is made of: ("stem", "stage1", …, "fc")."""
        return ("stem", *(f"stage{i}" for i in range(1, len(self.stage_sizes) + 1)), "fc")

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names, on the highest level, of the parameters that are not trained.

        >>> ResNet((1, 1), (4, 8), False, "cifar", 10, "A", freeze="stage1").frozen
        ('conv1', 'bn1', 'stage1')
        """
        if self.freeze is None:
            return ()
        body = self.parts[:-1]
        return (*_STEM, *(body if self.freeze == "backbone" else body[: body.index(self.freeze) + 1])[1:])

    @property
    def frozen_statistics(self) -> tuple[str, ...]:
        """As `frozen`, of the running statistics that stay as they are."""
        return () if self.live_statistics else self.frozen

    def setup(self):
        norm = partial(BatchNorm, self.momentum, self.epsilon, self.bn_group_size, self.axis_name, self.dtype)
        kinds = (PreActBlock, PreActBottleneckBlock) if self.preactivation else (BasicBlock, BottleneckBlock)
        kind = kinds[self.bottleneck]
        gates = None if self.gates is None else with_bias(self.gates, sum(self.stage_sizes))
        own = {"bottleneck_stride": self.bottleneck_stride} if self.bottleneck else {"block_layers": self.block_layers}
        block = partial(
            nn.remat(kind, static_argnums=(2,)) if self.remat else kind,
            shortcut=self.shortcut,
            shortcut_padding=self.shortcut_padding,
            norm=norm,
            dtype=self.dtype,
            last_scale=nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones,
            padding=self.padding,
            gates=gates,
            **own,
        )
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        self.conv1 = Conv(self.widths[0], size, stride, self.dtype, self.padding)
        self.bn1 = norm()
        for i, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            first = partial(block, width, activated=True) if self.preactivation and i == 1 else None
            last_norm = norm if self.preactivation and i == len(self.stage_sizes) else None
            stage = Stage(partial(block, width), blocks, 1 if i == 1 else 2, self.unroll, self.remat, first, last_norm)
            setattr(self, f"stage{i}", stage)
        # The paper does not give the classifier's initialisation; [13] (1502.01852) used 0.01 for such layers.
        dtype = np.promote_types(self.dtype, jnp.float32)
        self.fc = nn.Dense(self.num_classes, dtype=dtype, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b {self.num_classes}"]:
        """The logits of images, in float32 or wider.

        Args:
          images: pre-processed, of any height and width.
          train: normalise by the batch's statistics and update the running ones (collection "batch_stats", which must
            be mutable).
        """
        return self.head(self.stages(images, train)[self.parts[-2]])

    def stages(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """The feature maps that the stem ("stem", pooled where it pools) and each stage ("stage1", …) end with.

        Arguments are as of `__call__`; feature maps are in the dtype of the computation.
        """
        images = jnp.asarray(images, self.dtype)
        x = self._apply("stem", lambda train: nn.relu(self.bn1(self.conv1(images), train)), train)
        if self.stem == "imagenet":
            x = max_pool(x, self.stem_pool_padding, self.padding == "wrap")
        maps = {"stem": x}
        for i in range(1, len(self.stage_sizes) + 1):
            maps[f"stage{i}"] = self.stage(i, maps["stem" if i == 1 else f"stage{i - 1}"], train)
        return maps

    def stage(
        self, number: int, features: Float[Array | np.ndarray, "b h w c"], train: bool
    ) -> Float[Array, "b _ _ _"]:
        """One stage alone, numbered from 1, on feature maps with the channels that the stage before ends with.

        Detection computes the fourth on regions of the third one's. All stages but the first halve a feature map.
        """
        name = f"stage{number}"
        return self._apply(name, partial(getattr(self, name), features), train)

    def _apply(self, part: str, function: Callable[[bool], jax.Array], train: bool) -> jax.Array:
        """What a part computes, in training or not; from a frozen one no gradient comes back."""
        if part not in map(part_of, self.frozen):
            return function(train)
        return jax.lax.stop_gradient(function(train and self.live_statistics))

    def head(self, features: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b {self.num_classes}"]:
        """The logits of feature maps that the last stage ends with: `fc`, the classifier, on their averages."""
        return self.fc(averaged(features))

    def features(self, images: Num[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b _"]:
        """What `fc` is given: the averages of the last feature maps, in float32 or wider."""
        return averaged(self.stages(images, train)[self.parts[-2]])
