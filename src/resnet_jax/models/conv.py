"""Convolution with explicit padding whose gradient is fast on CPU, also inside loops, and that has all derivatives.

XLA:CPU has one fast convolution: stride 1, no dilation, NHWC images, HWIO kernel. The gradients that JAX derives are
other convolutions (dilated, or with batch and features exchanged). Measured with jax 0.10 on 2 cores: the gradients of
the kernel take 1.7 to 2.6 times as long as the forward convolution, and inside any loop (a scan over blocks, a scan
over training steps) both gradients take 16 to 66 times as long as outside. Here both are written as that one fast form.
Accelerators have fast kernels for the native gradients and keep them: `lax.platform_dependent` chooses when the program
is lowered.
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
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

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
    most = batch // math.gcd(batch, 8)
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


def _transpose(
    wanted: int, cotangent: jax.Array, x: Any, kernel: Any, *, stride: int, padding: Any, copies: int
) -> jax.Array:
    """The cotangent of the images (0) or of the kernel (1), of which the shape and type alone are known."""
    like, known = (x, kernel) if wanted == 0 else (kernel, x)
    # Something of the shape and type of one copy; its values are not used.
    like = _varying(jnp.zeros(like.aval.shape[copies:], like.aval.dtype), like.aval.manual_axis_type.varying)

    def in_order(like, known):
        return (like, known) if wanted == 0 else (known, like)

    def own(cotangent, known):
        x, kernel = in_order(like, known)
        prepare, pads = _as_stride_one(x.shape, kernel.shape, cotangent.shape, stride, padding)
        deep_shape = jax.eval_shape(prepare[wanted], like).shape
        gradient = (_input_gradient, _kernel_gradient)[wanted](prepare[1 - wanted](known), cotangent, deep_shape, pads)
        return jax.linear_transpose(prepare[wanted], like)(gradient)[0]

    def native(cotangent, known):
        return jax.linear_transpose(lambda like: _forward(*in_order(like, known), stride, padding), like)(cotangent)[0]

    return lax.platform_dependent(cotangent, known, cpu=_each(own, copies), default=_each(native, copies))


def _each(function: Callable[..., jax.Array], copies: int) -> Callable[..., jax.Array]:
    """The function over so many leading axes that all its arguments have."""
    for _ in range(copies):
        function = jax.vmap(function)
    return function


def _tangent(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Any, copies: int) -> jax.Array:
    return _each(lambda x, kernel: _forward(x, kernel, stride, padding), copies)(x, kernel)


def _tangent_type(x: Any, kernel: Any, **fields: Any) -> Any:
    return jax.make_jaxpr(partial(_tangent, **fields))(x, kernel).out_avals[0]


def _map_tangent(operands: Any, axes: Any, **fields: Any) -> tuple[jax.Array, int]:
    """Under `vmap`: another leading axis."""
    size = next(each.shape[axis] for each, axis in zip(operands, axes, strict=True) if axis is not None)
    x, kernel = (
        jnp.broadcast_to(each, (size, *each.shape)) if axis is None else jnp.moveaxis(each, axis, 0)
        for each, axis in zip(operands, axes, strict=True)
    )
    if axes[1] is None and not fields["copies"]:  # one kernel: more images
        y = _tangent_p.bind(x.reshape(-1, *x.shape[2:]), operands[1], **fields)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    return _tangent_p.bind(x, kernel, **{**fields, "copies": fields["copies"] + 1}), 0


# The convolution in a tangent: linear in each of its operands, and differentiable as often as one likes. JAX has no
# function for that: of `jax.custom_vjp` there is no forward mode, and a `jax.custom_derivatives.linear_call` cannot be
# differentiated by its other operand.
_tangent_p = Primitive("conv_tangent")
_tangent_p.def_impl(jax.jit(_tangent, static_argnames=("stride", "padding", "copies")))
_tangent_p.def_abstract_eval(_tangent_type)
mlir.register_lowering(_tangent_p, mlir.lower_fun(_tangent, multiple_results=False))
batching.primitive_batchers[_tangent_p] = _map_tangent
ad.defbilinear(_tangent_p, partial(_transpose, 0), partial(_transpose, 1))


def _bind_tangent(x: jax.Array, kernel: jax.Array, **fields: Any) -> jax.Array:
    # In a `jax.shard_map` that checks it, both vary over the same axes; the transpose sums over those that were added.
    axes = jax.typeof(x).manual_axis_type.varying | jax.typeof(kernel).manual_axis_type.varying
    return _tangent_p.bind(_varying(x, axes), _varying(kernel, axes), **fields)


def _varying(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = axes - jax.typeof(array).manual_axis_type.varying
    return lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def conv(
    x: Float[Array | np.ndarray, "b h w c"],
    kernel: Float[Array | np.ndarray, "kernel_height kernel_width channels features"],
    stride: int,
    padding: Padding,
) -> Float[Array, "b _ _ features"]:
    """Cross-correlates `x` with `kernel`, both of one dtype, as Caffe and Torch do; the padding is of height and width.

    It can be differentiated in both modes and repeatedly.

    >>> conv(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4)), 2, ((1, 1), (1, 1))).shape
    (1, 3, 3, 4)
    """
    return _forward(x, kernel, stride, padding)


def _conv_jvp(stride: int, padding: Padding, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    fields = {"stride": stride, "padding": tuple(map(tuple, padding)), "copies": 0}
    terms = []
    # The images of a training step have none, and a convolution of zeros would be computed.
    if type(x_tangent) is not SymbolicZero:
        terms.append(_bind_tangent(x_tangent, kernel, **fields))
    if type(kernel_tangent) is not SymbolicZero:
        terms.append(_bind_tangent(x, kernel_tangent, **fields))
    return _forward(x, kernel, stride, padding), sum(terms[1:], terms[0])


conv.defjvp(_conv_jvp, symbolic_zeros=True)


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
        pad = ((self.size - 1) // 2,) * 2
        if self.padding == "wrap":
            x, pad = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), mode="wrap"), (0, 0)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, (pad, pad))
        y = checkpoint_name(y, "resnet_jax.conv")
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y += bias.astype(self.dtype)[None, None, None]
        return y
