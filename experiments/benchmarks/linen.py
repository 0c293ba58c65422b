"""The paper's networks as anybody would write them in plain Linen: what ours are compared with.

    python experiments/benchmarks/linen.py --variants=linen,scanned [--model=NAME and other flags of benchmark train]

Every block is written out, `nn.Conv` has the gradients that JAX derives, and `nn.BatchNorm` keeps the biased running
variance; in training the logits and the gradients are those of `resnet_jax.models`.
"""

import sys
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from resnet_jax.benchmark import VARIANTS as OURS, Variant
from resnet_jax.cli.benchmarks import benchmark_train
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.stacking import unstack


def _conv(features: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    padding = (size - 1) // 2
    init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    return nn.Conv(
        features, (size, size), stride, padding=padding, use_bias=False, dtype=dtype, kernel_init=init, name=name
    )


class LinenBlock(nn.Module):
    """A basic or bottleneck block with shortcut A, B, C or None (the plain twin)."""

    features: int
    stride: int
    bottleneck: bool
    shortcut: str | None
    axis_name: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(nn.BatchNorm, not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=self.axis_name)
        out = self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            y = nn.relu(norm(name="bn1")(conv(self.features, 1, self.stride, name="conv1")(x)))
            y = nn.relu(norm(name="bn2")(conv(self.features, 3, 1, name="conv2")(y)))
            y = norm(name="bn3")(conv(out, 1, 1, name="conv3")(y))
        else:
            y = nn.relu(norm(name="bn1")(conv(out, 3, self.stride, name="conv1")(x)))
            y = norm(name="bn2")(conv(out, 3, 1, name="conv2")(y))
        if self.shortcut is None:
            return nn.relu(y)
        grows = x.shape != y.shape
        if self.shortcut == "C" or (self.shortcut == "B" and grows):
            x = norm(name="shortcut_bn")(conv(out, 1, self.stride, name="shortcut_conv")(x))
        elif grows:
            missing = out - x.shape[-1]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, missing)))
        return nn.relu(x + y)


class LinenResNet(nn.Module):
    """A network of the paper; the fields are those of `resnet_jax.models.ResNet`."""

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    stem: str
    num_classes: int
    shortcut: str | None
    axis_name: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        imagenet = self.stem == "imagenet"
        size, stride = (7, 2) if imagenet else (3, 1)
        x = _conv(self.widths[0], size, stride, self.dtype, name="conv1")(images)
        norm = nn.BatchNorm(
            not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=self.axis_name, name="bn1"
        )
        x = nn.relu(norm(x))
        if imagenet:
            # The windows start at the first pixel, as Caffe's do for maps of an even size.
            padding: Any = ((0, 1), (0, 1))
            x = nn.max_pool(x, (3, 3), (2, 2), padding)
        for i, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                block = LinenBlock(
                    width,
                    stride,
                    self.bottleneck,
                    self.shortcut,
                    self.axis_name,
                    self.dtype,
                    name=f"stage{i + 1}_block{j + 1}",
                )
                x = block(x, train)
        pooled = x.mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(pooled)


def linen_twin(model: ResNet) -> LinenResNet:
    """The same network in plain Linen: same logits in training, for images of an even size (CIFAR: of any size).

    An InputError where its batch norms have groups, which `nn.BatchNorm` does not know.
    """
    if model.bn_group_size is not None:
        raise InputError(
            f"plain Linen has no groups of batch norm: leave linen out with bn_group_size={model.bn_group_size}"
        )
    return LinenResNet(
        model.stage_sizes,
        model.widths,
        model.bottleneck,
        model.stem,
        model.num_classes,
        model.shortcut,
        dtype=model.dtype,
    )


def to_linen(variables: Any) -> Any:
    """Variables, or gradients, of a `ResNet` in the layout of its `linen_twin`: stacked blocks become single ones."""
    copied = {}
    flat: dict[Any, Any] = traverse_util.flatten_dict(unstack(variables))
    for (collection, module, *path), value in flat.items():
        if module.startswith("stage"):
            block, *layer, leaf = path
            module, path = f"{module}_{block}", ["_".join(layer), leaf]
        copied[collection, module, *path] = value
    return traverse_util.unflatten_dict(copied)


VARIANTS = {"linen": Variant(linen_twin, scan_steps=False)}

if __name__ == "__main__":
    OURS.update(VARIANTS)
    benchmark_train(sys.argv[1:])
