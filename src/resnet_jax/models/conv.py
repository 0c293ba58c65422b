"""Convolution with explicit padding whose gradient is fast on CPU, also inside loops.

XLA:CPU has one fast convolution: stride 1, no dilation, NHWC images, HWIO kernel. The gradients that JAX derives are
other convolutions (dilated, or with batch and features exchanged). Measured with jax 0.10 on 2 cores: the gradients of
the kernel take 1.7 to 2.6 times as long as the forward convolution, and inside any loop (a scan over blocks, a scan
over training steps) both gradients take 16 to 66 times as long as outside. Here both are written as that one fast form.
Accelerators have fast kernels for the native gradients and keep them: `lax.platform_dependent` chooses when the program
is lowered.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Padding = Sequence[tuple[int, int]]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Measured on 2 cores: the kernel gradient is fastest when the sum over the batch is split into about this many
# convolutions.
_CHUNKS = 8


def _forward(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)


def _input_gradient(
    cotangent: jax.Array, kernel: jax.Array, input_shape: tuple[int, ...], padding: Padding
) -> jax.Array:
    """Convolves the cotangent with the flipped, transposed kernel; for stride 1."""
    pads = []
    for axis in range(2):
        low = kernel.shape[axis] - 1 - padding[axis][0]
        pads.append((low, input_shape[1 + axis] + kernel.shape[axis] - 1 - cotangent.shape[1 + axis] - low))
    return _forward(cotangent, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1, pads)


def _kernel_gradient(x: jax.Array, cotangent: jax.Array, kernel_shape: tuple[int, ...], padding: Padding) -> jax.Array:
    """Convolves the activations, as (C, H, W, N), with the cotangent, as (H, W, N, F), to (C, kh, kw, F); for stride
    1.
    """
    if kernel_shape[:2] == (1, 1) and not any(any(pair) for pair in padding):
        return jnp.einsum("nhwc,nhwf->cf", x, cotangent, preferred_element_type=x.dtype)[None, None]
    # The chunk index varies fastest, and chunks keep a multiple of 8 images where the batch has one, so that a batch
    # sharded over up to 8 devices in contiguous parts is summed without communication.
    batch = x.shape[0]
    parts = batch // math.gcd(batch, 8)
    chunks = next(n for n in range(min(_CHUNKS, parts), 0, -1) if parts % n == 0)
    images = x.reshape(batch // chunks, chunks, *x.shape[1:])
    cotangents = cotangent.reshape(batch // chunks, chunks, *cotangent.shape[1:])
    gradient: Any = 0.0
    for i in range(chunks):
        gradient += _forward(images[:, i].transpose(3, 1, 2, 0), cotangents[:, i].transpose(1, 2, 0, 3), 1, padding)
    return gradient.transpose(1, 2, 0, 3)


def _gradients(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """Both gradients as convolutions of stride 1.

    A strided convolution is one of stride 1 whose channels are the stride x stride pixels that a step skips (space to
    depth). That costs 16/9 of the arithmetic for 3x3 kernels of stride 2, where zeros between the cotangents cost 4.
    """
    if stride == 1:
        return _input_gradient(cotangent, kernel, x.shape, padding), _kernel_gradient(
            x, cotangent, kernel.shape, padding
        )

    if kernel.shape[:2] == (1, 1) and not any(any(pair) for pair in padding):
        prepare_x, prepare_kernel = (lambda x: x[:, ::stride, ::stride]), (lambda kernel: kernel)
    else:
        taps = [-(-size // stride) for size in kernel.shape[:2]]
        sides = [(size + tap - 1) * stride for size, tap in zip(cotangent.shape[1:3], taps, strict=True)]

        def prepare_x(x):
            pads = [(low, side - size - low) for (low, _), side, size in zip(padding, sides, x.shape[1:3], strict=True)]
            x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pair, 0) for pair in pads), (0, 0, 0)])
            return _space_to_depth(x, stride)

        def prepare_kernel(kernel):
            pads = [(0, tap * stride - size) for tap, size in zip(taps, kernel.shape[:2], strict=True)]
            return _space_to_depth(jnp.pad(kernel, (*pads, (0, 0), (0, 0))).transpose(3, 0, 1, 2), stride).transpose(
                1, 2, 3, 0
            )

    deep_x, undo_x = jax.vjp(prepare_x, x)
    deep_kernel, undo_kernel = jax.vjp(prepare_kernel, kernel)
    no_padding = ((0, 0), (0, 0))
    x_gradient, kernel_gradient = _gradients(deep_x, deep_kernel, cotangent, 1, no_padding)
    return undo_x(x_gradient)[0], undo_kernel(kernel_gradient)[0]


def _space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """(N, H, W, C) -> (N, H / block, W / block, block * block * C)."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // block, block, w // block, block, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // block, w // block, -1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Cross-correlates `x` with `kernel`, as Caffe and Torch do.

    Args:
      x: images, (batch, height, width, channels).
      kernel: (kernel height, kernel width, channels, features), of the same dtype.
      stride: the same in both directions.
      padding: zeros before and after, for height and for width.

    Returns:
      (batch, height', width', features), in the dtype of `x`.
    """
    return _forward(x, kernel, stride, padding)


def _conv_fwd(x, kernel, stride, padding):
    return _forward(x, kernel, stride, padding), (x, kernel)


def _conv_bwd(stride, padding, residuals, cotangent):
    def own(x, kernel, cotangent):
        return _gradients(x, kernel, cotangent, stride, padding)

    def native(x, kernel, cotangent):
        return jax.vjp(lambda x, kernel: _forward(x, kernel, stride, padding), x, kernel)[1](cotangent)

    return lax.platform_dependent(*residuals, cotangent, cpu=own, default=native)


conv.defvjp(_conv_fwd, _conv_bwd)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """An untruncated Gaussian of variance 2 / fan-in: He et al. 2015 (1502.01852), equation 10.

    The kernels are those of Flax's `variance_scaling(2.0, "fan_in", "normal")`, to the last bit or next to it; its
    `he_normal()` is truncated. They are drawn in one dimension: XLA takes five times as long to compile the random bits
    of four.
    """
    deviation = jnp.sqrt(jnp.array(2.0 / math.prod(shape[:-1]), dtype))
    return (jax.random.normal(key, (math.prod(shape),), dtype) * deviation).reshape(shape)


class Conv(nn.Module):
    """A convolution without bias, padded by (size - 1) // 2 on every side as Caffe's and Torch's ResNets are; never
    `SAME`, which differs for strides.
    """

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", he_normal, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        pad = ((self.size - 1) // 2,) * 2
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, (pad, pad))
