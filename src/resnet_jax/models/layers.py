"""Batch normalisation and the scope of its statistics, the three shortcuts, and the stem's pooling."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Nothing public tells whether JAX has started its devices, without starting them.
from jax._src.xla_bridge import backends_are_initialized
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from resnet_jax.models.conv import Conv


class BatchNorm(nn.Module):
    """Batch normalisation over (batch, height, width), with statistics at least in float32 (paper section 3.4).

    Ghost batch norm (1705.08741): `bn_group_size` images are normalised together in training; None is the whole batch,
    on all devices (synchronised batch norm). The paper's nets normalised per GPU, 32 images on ImageNet and 64 on
    CIFAR-10; a group size gives those statistics on any number of devices, and without communication in the forward
    pass where no group crosses a device (`bn_groups`). The running statistics average the groups, as the paper's GPUs
    each kept their own: how much the groups' means differ is no part of the running variance
    (`evaluation.recalibration` measures all images together).

    The batch is normalised by the biased variance. The running one is the unbiased estimate, as in Caffe and Torch
    (Flax keeps the biased one).

    Attributes:
      momentum: weight of the old running statistics at each training step (0.9 is Torch's 0.1).
      epsilon: added to the variance; 1e-5 is Caffe's and Torch's default, the paper gives none.
      bn_group_size: see above.
      axis_name: the mesh axes that the batch is sharded over, where the network runs inside `jax.shard_map` and sees
        one device's images; a group that is larger than those is normalised together with the next devices'. The
        running statistics then differ between devices, for the caller to average. None: the whole batch is here.
      dtype: of the output.
      scale_init: draws the scale (gamma).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    bn_group_size: int | None = None
    axis_name: tuple[str, ...] | None = None
    dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        statistics_dtype = np.promote_types(x.dtype, jnp.float32)
        groups, devices = 1, 1
        if train and not self.is_initializing():
            devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
            groups, devices = bn_groups(x.shape[0], devices, self.bn_group_size)
        grouped = jnp.asarray(x.reshape(groups, -1, *x.shape[1:]))
        if not on_cpu():
            # Here, so that what both uses add to the gradient is added up before it is rounded.
            grouped = _widened(grouped)
        if train:
            # Both moments in one pass over the activations, and one reduction where a group spans several devices.
            moments = _recomputed(_moments)(grouped)
            if self.axis_name is not None and devices > 1:  # so many neighbours
                total = lax.axis_size(self.axis_name)
                neighbours = [list(range(first, first + devices)) for first in range(0, total, devices)]
                within = neighbours if devices < total else None
                moments = lax.psum(moments, self.axis_name, axis_index_groups=within) / devices
            moments = checkpoint_name(moments, "resnet_jax.moments")
            mean = moments[0]
            var = jnp.maximum(moments[1] - jnp.square(mean), 0.0)
            if not self.is_initializing():
                count = math.prod(grouped.shape[1:4]) * devices
                unbiased = var * (count / max(count - 1, 1))
                for running, batch in ((running_mean, mean), (running_var, unbiased)):
                    average = batch.mean(0).astype(running.value.dtype)
                    running.value = self.momentum * running.value + (1 - self.momentum) * average
        else:
            mean, var = (each.value[None].astype(statistics_dtype) for each in (running_mean, running_var))

        scale, bias = scale.astype(statistics_dtype), bias.astype(statistics_dtype)
        factor = lax.rsqrt(var + self.epsilon) * scale[None]
        if on_cpu() or not train:
            y = _recomputed(_normalized)(grouped, mean, factor) + bias[None, None, None, None]
            return y.reshape(x.shape).astype(self.dtype)
        # A factor and a shift for each group: their gradients are two sums over the activations, from which those of
        # the scale, of the bias and of both moments follow. It is not exact for what has no variance.
        bias = jnp.broadcast_to(bias, factor.shape)
        if groups > 1:
            # Without it a GPU's compiler adds up the bias's gradient over all groups at once, beside each group's.
            bias = lax.optimization_barrier(bias)
        y = grouped * factor[:, None, None, None] + (bias - mean * factor)[:, None, None, None]
        return y.reshape(x.shape).astype(self.dtype)


def _moments(grouped: jax.Array) -> jax.Array:
    """The means of the values and of their squares, (2, groups, channels)."""
    wide = _widened(grouped)
    return jnp.stack([wide.mean((1, 2, 3)), jnp.square(wide).mean((1, 2, 3))])


def _normalized(grouped: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
    return (_widened(grouped) - mean[:, None, None, None]) * factor[:, None, None, None]


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(np.promote_types(x.dtype, jnp.float32))


def _recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """On a CPU, the function with a gradient that keeps its arguments alone, in their own dtype: on 2 cores a training
    step of ResNet-20 with 128 images is 1.1 times as fast by it, and its program takes 225 MiB instead of 317. A GPU's
    compiler computes again what is cheap without being told: on an H200, in bfloat16, a step of ResNet-50 with 256
    images took 46.3 ms so told and 38.6 left alone; ResNet-20's with 128 images 1.98 and 2.06.
    """
    return jax.checkpoint(function) if on_cpu() else function


def on_cpu() -> bool:
    """Whether what is traced now will run on CPUs, as far as one can know: JAX's default devices are some, or have not
    been started, as where shapes alone are asked for.
    """
    return not backends_are_initialized() or jax.default_backend() == "cpu"


def bn_groups(images: int, devices: int, bn_group_size: int | None) -> tuple[int, int]:
    """How a batch falls into the groups of ghost batch norm: the one place that decides it.

    Of the `images` that each of so many devices has at a time, `bn_group_size` share statistics, or all where it is
    None. Returns the groups of each device, and the devices that each group extends over; one of them is 1.

    Raises:
      ValueError: the group size does not fit; the message says which ones do.

    >>> bn_groups(64, 8, 32), bn_groups(64, 8, 128), bn_groups(64, 8, None)
    ((2, 1), (1, 2), (1, 8))
    """
    size = images * devices if bn_group_size is None else bn_group_size
    if size > 0 and images % size == 0:
        return images // size, 1
    if size > 0 and size % images == 0 and devices % (size // images) == 0:
        return 1, size // images
    near = max(each for each in range(1, images + 1) if images % each == 0 and each <= max(size, 1))
    where, larger = f"{images} images", ""
    if devices > 1:
        where = f"the {images} images that each of {devices} devices has at a time"
        larger = f", {images} times a divisor of {devices}"
    raise ValueError(
        f"bn_group_size={size} does not fit {where}: use a divisor of {images} such as {near}{larger}, or None for the "
        "statistics of the whole batch"
    )


def batch_norm_maps(model: nn.Module, image_shape: tuple[int, ...]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Height and width of the feature map that each batch norm sees, by the path of its variables; nothing is computed.

    >>> from resnet_jax import models
    >>> batch_norm_maps(models.create("cifar_resnet8"), (32, 32, 3))["stage3", "first", "bn2"]
    (8, 8)
    """
    found = {}

    def record(method, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            found[context.module.path] = args[0].shape[1:3]
        return method(*args, **kwargs)

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return found


def averaged(maps: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b c"]:
    """Global average pooling: the mean over all positions, in float32 or wider."""
    return jnp.mean(maps, (1, 2), dtype=np.promote_types(maps.dtype, jnp.float32))


def zero_pad_shortcut(
    x: Float[Array | np.ndarray, "b h w c"], features: int, stride: int, shortcut_padding: str
) -> Float[Array, "b _ _ {features}"]:
    """Option A: every `stride`-th pixel, and zeros in the channels that `x` lacks (paper section 3.3).

    The zeros are behind the channels ("end"), or half before and half behind ("both"). More channels than `features`
    are a ValueError.

    >>> zero_pad_shortcut(jnp.ones((1, 2, 2, 1)), 3, 2, "both")[0, 0, 0].tolist()
    [0.0, 1.0, 0.0]
    """
    missing = features - x.shape[-1]
    if missing < 0:
        raise ValueError(f"shortcut A only adds channels: {x.shape[-1]} cannot become {features}")
    before = {"end": 0, "both": missing // 2}[shortcut_padding]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (before, missing - before)))


class Shortcut(nn.Module):
    """The path around a block's residual branch (paper section 3.3).

    `option` is "A", identity, zero-padded as `zero_pad_shortcut` says; "B", projection where the dimensions change; or
    "C", projection everywhere. `norm` makes the batch norm after a projection; None is none.
    """

    option: str
    features: int
    stride: int
    shortcut_padding: str
    norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        same = self.stride == 1 and x.shape[-1] == self.features
        if self.option == "C" or (self.option == "B" and not same):
            x = Conv(self.features, 1, self.stride, dtype=self.dtype, name="conv")(x)
            return x if self.norm is None else self.norm(name="bn")(x, train)
        return x if same else zero_pad_shortcut(x, self.features, self.stride, self.shortcut_padding)


def halved(x: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """2x2 max pooling of stride 2, as in VGG: a last row or column without a partner is dropped.

    Of a map of one row or column nothing would be left: a ValueError.

    >>> halved(jnp.arange(10.0).reshape(1, 2, 5, 1))[0, :, :, 0].tolist()
    [[6.0, 8.0]]
    """
    height, width = x.shape[1:3]
    if min(height, width) < 2:
        raise ValueError(f"of a map of {height} x {width} pixels 2x2 pooling leaves nothing: give larger images")
    return nn.max_pool(x, (2, 2), (2, 2))


def max_pool(
    x: Float[Array | np.ndarray, "b h w c"], padding: str, wrap: bool = False
) -> Float[Array, "b _ _ channels"]:
    """3x3 max pooling of stride 2: "caffe" lets the first window start at the first pixel and rounds the number of
    windows up, "torch" pads one pixel on every side. 112 x 112 become 56 x 56 either way.

    Padding never wins; with `wrap` it holds the pixels of the other side.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), "torch")[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    if padding == "torch":
        pads = [(1, 1), (1, 1)]
    else:
        pads = [(0, max(-(-(size - 3) // 2), 0) * 2 + 3 - size) for size in x.shape[1:3]]
    if wrap:
        x, pads = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode="wrap"), [(0, 0), (0, 0)]
    return nn.max_pool(x, (3, 3), (2, 2), pads)  # pyright: ignore[reportArgumentType] (Flax declares a string only)
