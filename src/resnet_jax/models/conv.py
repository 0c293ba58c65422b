"""Convolution with explicit padding whose gradient is fast on CPU, also inside loops, and that has all derivatives.

XLA:CPU has one fast convolution: stride 1, no dilation, NHWC images, HWIO kernel. The gradients that JAX derives are
other convolutions (dilated, or with batch and features exchanged). Measured with jax 0.10 on 2 cores: the gradients of
the kernel take 1.7 to 2.6 times as long as the forward convolution, and inside any loop (a scan over blocks, a scan
over training steps) both gradients take 16 to 66 times as long as outside. Here both are written as that one fast form.
Accelerators have fast kernels for the native gradients and keep them: which one it is, is chosen when the program is
lowered. On one CPU device oneDNN can compute all three, see `onednn`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array, Float

from resnet_jax.models import onednn

Padding = Sequence[tuple[int, int]]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Measured on 2 cores: the kernel gradient is fastest when the sum over the batch is split into about this many
# convolutions.
_CHUNKS = 8


def _forward(x: Any, kernel: Any, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS)


def _input_gradient(
    kernel: jax.Array, cotangent: jax.Array, input_shape: tuple[int, ...], padding: Padding
) -> jax.Array:
    """Convolves the cotangent with the flipped, transposed kernel; for stride 1."""
    pads = []
    for axis in range(2):
        low = kernel.shape[axis] - 1 - padding[axis][0]
        pads.append((low, input_shape[1 + axis] + kernel.shape[axis] - 1 - cotangent.shape[1 + axis] - low))
    return _forward(cotangent, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1, pads)


def _kernel_gradient(x: jax.Array, cotangent: jax.Array, kernel_shape: tuple[int, ...], padding: Padding) -> jax.Array:
    """Convolves the activations (C, H, W, N) with the cotangent (H, W, N, F) to (C, kh, kw, F); for stride 1."""
    if kernel_shape[:2] == (1, 1) and not any(any(pair) for pair in padding):
        return jnp.einsum("nhwc,nhwf->cf", x, cotangent, preferred_element_type=x.dtype)[None, None]
    # The chunk index varies fastest, and chunks keep a multiple of 8 images where the batch has one, so that a batch
    # sharded over up to 8 devices is summed without communication.
    batch = x.shape[0]
    most = max(batch // math.gcd(batch, 8), 1)
    chunks = next(n for n in range(min(_CHUNKS, most), 0, -1) if most % n == 0)
    images = x.reshape(batch // chunks, chunks, *x.shape[1:])
    cotangents = cotangent.reshape(batch // chunks, chunks, *cotangent.shape[1:])
    gradient: Any = 0.0
    for i in range(chunks):
        gradient += _forward(images[:, i].transpose(3, 1, 2, 0), cotangents[:, i].transpose(1, 2, 0, 3), 1, padding)
    return gradient.transpose(1, 2, 0, 3)


def _as_stride_one(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], cotangent_shape: tuple[int, ...], stride: int, padding: Any
) -> tuple[tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]], Any]:
    """Linear functions of images and of a kernel, and a padding, with which stride 1 convolves to the same.

    A strided convolution is one of stride 1 whose channels are the stride x stride pixels that a step skips (space to
    depth). That costs 16/9 of the arithmetic for 3x3 kernels of stride 2, where zeros between the cotangents cost 4.
    """
    if stride == 1:
        return (lambda x: x, lambda kernel: kernel), padding
    if kernel_shape[:2] == (1, 1) and not any(any(pair) for pair in padding):
        return (lambda x: x[:, ::stride, ::stride], lambda kernel: kernel), padding

    taps = [-(-size // stride) for size in kernel_shape[:2]]
    sides = [(size + tap - 1) * stride for size, tap in zip(cotangent_shape[1:3], taps, strict=True)]

    def prepare_x(x):
        pads = [(low, side - size - low, 0) for (low, _), side, size in zip(padding, sides, x_shape[1:3], strict=True)]
        return _space_to_depth(lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)]), stride)

    def prepare_kernel(kernel):
        pads = [(0, tap * stride - size) for tap, size in zip(taps, kernel_shape[:2], strict=True)]
        deep = _space_to_depth(jnp.pad(kernel, (*pads, (0, 0), (0, 0))).transpose(3, 0, 1, 2), stride)
        return deep.transpose(1, 2, 3, 0)

    return (prepare_x, prepare_kernel), ((0, 0), (0, 0))


def _space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """(N, H, W, C) -> (N, H / block, W / block, block * block * C)."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // block, block, w // block, block, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // block, w // block, -1)


def _own(wanted: str, shape: Any, stride: int, padding: Padding, first: Any, second: Any) -> jax.Array:
    """What is wanted from two operands of `_conv_p`, as convolutions of the form that is fast on CPU."""
    if wanted == "y":
        return _forward(first, second, stride, padding)
    x_shape, kernel_shape = (shape, first.shape) if wanted == "x" else (first.shape, shape)
    prepare, pads = _as_stride_one(x_shape, kernel_shape, second.shape, stride, padding)
    prepare_wanted, prepare_first = prepare if wanted == "x" else prepare[::-1]
    gradient, like = _input_gradient if wanted == "x" else _kernel_gradient, _like(shape, first)
    deep = gradient(prepare_first(first), second, jax.eval_shape(prepare_wanted, like).shape, pads)
    return jax.linear_transpose(prepare_wanted, like)(deep)[0]


def _native(wanted: str, shape: Any, stride: int, padding: Padding, first: Any, second: Any) -> jax.Array:
    """What is wanted, as JAX derives it."""
    if wanted == "y":
        return _forward(first, second, stride, padding)

    def function(like: jax.Array) -> jax.Array:
        x, kernel = (like, first) if wanted == "x" else (first, like)
        return _forward(x, kernel, stride, padding)

    return jax.linear_transpose(function, _like(shape, first))(second)[0]


def _like(shape: tuple[int, ...], other: jax.Array) -> jax.Array:
    """Something of that shape and of the type of another array; its values are not used."""
    return _varying(jnp.zeros(shape, other.dtype), jax.typeof(other).manual_axis_type.varying)


def _computed(compute: Callable[..., jax.Array], *known: Any, copies: int, **fields: Any) -> jax.Array:
    """Over so many leading axes that all arrays have."""
    function = partial(compute, *(fields[name] for name in ("wanted", "shape", "stride", "padding")))
    for _ in range(copies):
        function = jax.vmap(function)
    return function(*known)


# The sum over x, kernel and y of y * conv(x, kernel) is linear in each of the three, and this is its derivative by the
# one that is `wanted`: "y", the convolution, or "x" or "kernel", its gradients. The operands are the other two. It is
# linear in each of them and its transposes are of its own kind, so that one may differentiate as often as one likes.
# JAX has no function for that: of `jax.custom_vjp` there is no forward mode, and a
# `jax.custom_derivatives.linear_call` cannot be differentiated by its other operand.
_conv_p = Primitive("conv")
_OPERANDS = {"y": ("x", "kernel"), "x": ("kernel", "y"), "kernel": ("x", "y")}


def _type(*known: Any, **fields: Any) -> Any:
    return jax.make_jaxpr(partial(_computed, _native, **fields))(*known).out_avals[0]


def _transpose(
    position: int, cotangent: jax.Array, *operands: Any, wanted: str, shape: Any, copies: int, **fields: Any
) -> jax.Array:
    """The cotangent of one operand, of which the shape and type alone are known."""
    names = _OPERANDS[wanted]
    found, other = names[position], names[1 - position]
    arrays = {wanted: cotangent, other: operands[1 - position]}
    known = [arrays[name] for name in _OPERANDS[found]]
    shape = None if found == "y" else operands[position].aval.shape[copies:]
    return _conv_p.bind(*known, wanted=found, shape=shape, copies=copies, **fields)


def _map(operands: Any, axes: Any, **fields: Any) -> tuple[jax.Array, int]:
    """Under `vmap`: another leading axis."""
    size = next(each.shape[axis] for each, axis in zip(operands, axes, strict=True) if axis is not None)
    names, wanted, shape = _OPERANDS[fields["wanted"]], fields["wanted"], fields["shape"]
    arrays = [each if axis is None else jnp.moveaxis(each, axis, 0) for each, axis in zip(operands, axes, strict=True)]
    if "kernel" in names and axes[names.index("kernel")] is None and not fields["copies"]:  # one kernel: more images
        at = 1 - names.index("kernel")
        images = arrays[at].shape[1]
        arrays[at] = arrays[at].reshape(-1, *arrays[at].shape[2:])
        whole = {**fields, "shape": None if wanted == "y" else (size * shape[0], *shape[1:])}
        result = _conv_p.bind(*arrays, **whole)
        return result.reshape(size, images, *result.shape[1:]), 0
    arrays = [
        jnp.broadcast_to(each, (size, *each.shape)) if axis is None else each
        for each, axis in zip(arrays, axes, strict=True)
    ]
    return _conv_p.bind(*arrays, **{**fields, "copies": fields["copies"] + 1}), 0


def _lower_for_cpu(context: Any, *operands: Any, **fields: Any) -> Any:
    lowered = onednn.lower(context, *operands, **fields)
    return lowered or mlir.lower_fun(partial(_computed, _own), multiple_results=False)(context, *operands, **fields)


_conv_p.def_impl(partial(xla.apply_primitive, _conv_p))
_conv_p.def_abstract_eval(_type)
mlir.register_lowering(_conv_p, mlir.lower_fun(partial(_computed, _native), multiple_results=False))
mlir.register_lowering(_conv_p, _lower_for_cpu, platform="cpu")
batching.primitive_batchers[_conv_p] = _map
ad.defbilinear(_conv_p, partial(_transpose, 0), partial(_transpose, 1))


def _varying(array: Any, axes: frozenset[str]) -> jax.Array:
    missing = axes - jax.typeof(array).manual_axis_type.varying
    return lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


def conv(
    x: Float[Array | np.ndarray, "b h w c"],
    kernel: Float[Array | np.ndarray, "kernel_height kernel_width channels features"],
    stride: int,
    padding: Padding,
) -> Float[Array, "b _ _ features"]:
    """Cross-correlates `x` with `kernel`, both of one dtype, as Caffe and Torch do; the padding is of height and width.

    It can be differentiated in both modes and repeatedly. On one CPU device oneDNN computes it where the extra `onednn`
    is installed.

    >>> conv(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4)), 2, ((1, 1), (1, 1))).shape
    (1, 3, 3, 4)
    """
    # In a `jax.shard_map` that checks it, both vary over the same axes; the transpose sums over those that were added.
    axes = jax.typeof(x).manual_axis_type.varying | jax.typeof(kernel).manual_axis_type.varying
    fields = {"stride": stride, "padding": tuple(map(tuple, padding)), "copies": 0}
    return _conv_p.bind(_varying(x, axes), _varying(kernel, axes), wanted="y", shape=None, **fields)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """An untruncated Gaussian of variance 2 / fan-in: He et al. 2015 (1502.01852), equation 10.

    The kernels are those of Flax's `variance_scaling(2.0, "fan_in", "normal")`, to the last bit or next to it; its
    `he_normal()` is truncated. They are drawn in one dimension: XLA takes five times as long to compile the random bits
    of four.
    """
    deviation = jnp.sqrt(jnp.array(2.0 / math.prod(shape[:-1]), dtype))
    return (jax.random.normal(key, (math.prod(shape),), dtype) * deviation).reshape(shape)


class Conv(nn.Module):
    """A convolution, padded by (size - 1) // 2 on every side as Caffe's and Torch's ResNets are; never `SAME`, which
    differs for strides.

    `padding` is "zeros", or "wrap", with which the map is a torus and a shift of it one of the result. A bias is for
    what no batch norm follows.
    """

    features: int
    size: int
    stride: int = 1
    dtype: Any = jnp.float32
    padding: str = "zeros"
    use_bias: bool = False
    kernel_init: Any = he_normal
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        half = (self.size - 1) // 2
        pad = (half, half)
        if self.padding == "wrap":
            x, pad = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), mode="wrap"), (0, 0)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, (pad, pad))
        y = checkpoint_name(y, "resnet_jax.conv")
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y += bias.astype(self.dtype)[None, None, None]
        return y
