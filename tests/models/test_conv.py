"""The convolution and its own gradient against explicit loops, against XLA's gradient, and over eight devices."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from resnet_jax.models.conv import conv, he_normal

# (batch, height, width), kernel size, stride, padding
CASES = [
    ((1, 6, 6), 3, 1, ((1, 1), (1, 1))),
    ((2, 6, 7), 3, 2, ((1, 1), (1, 1))),
    ((7, 5, 8), 3, 2, ((1, 1), (1, 1))),
    ((8, 7, 4), 3, 1, ((0, 0), (0, 0))),
    ((16, 5, 5), 3, 1, ((1, 1), (1, 1))),
    ((12, 8, 8), 3, 2, ((0, 1), (0, 1))),
    ((3, 6, 9), 3, 2, ((2, 0), (0, 3))),
    ((7, 6, 5), 1, 1, ((0, 0), (0, 0))),
    ((4, 6, 5), 1, 2, ((0, 0), (0, 0))),
    ((4, 7, 8), 1, 2, ((1, 0), (2, 1))),
    ((11, 9, 10), 7, 2, ((3, 3), (3, 3))),
    ((2, 11, 8), 7, 2, ((2, 3), (3, 0))),
    ((7, 8, 9), 7, 1, ((3, 3), (3, 3))),
    ((9, 3, 2), 7, 2, ((3, 3), (3, 3))),
    ((5, 1, 1), 3, 2, ((1, 1), (1, 1))),
]


def native(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradients(function, x, kernel, cotangent, stride, padding):
    return jax.vjp(lambda x, kernel: function(x, kernel, stride, padding), x, kernel)[1](cotangent)


def operands(shape, size, stride, padding, dtype, steps=()):
    rng = np.random.default_rng(0)
    height, width = ((side + sum(pad) - size) // stride + 1 for side, pad in zip(shape[1:], padding, strict=True))
    shapes = (*shape, 3), (size, size, 3, 5), (shape[0], height, width, 5)
    return [jnp.asarray(rng.normal(size=(*steps, *s)), dtype) for s in shapes]


def assert_close(actual, expected, tolerance):
    """Within `tolerance` of the largest element."""
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES)
def test_value_is_that_of_explicit_loops(shape, size, stride, padding):
    x, kernel, _ = operands(shape, size, stride, padding, jnp.float32)
    expected = numpy_reference.conv(np.asarray(x), np.asarray(kernel), stride, padding)
    assert_close(conv(x, kernel, stride, padding), expected, 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES)
def test_gradients_are_xlas(shape, size, stride, padding, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        args = operands(shape, size, stride, padding, dtype)
        own, expected = jax.jit(lambda *args: [gradients(f, *args, stride, padding) for f in (conv, native)])(*args)
        for actual, reference in zip(own, expected, strict=True):
            assert actual.dtype == dtype
            assert_close(actual, reference, tolerance)


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES[1:3] + CASES[8:11])
def test_gradients_inside_a_scan(shape, size, stride, padding):
    args = operands(shape, size, stride, padding, jnp.float32, steps=(3,))
    scanned = jax.jit(lambda *xs: lax.scan(lambda c, x: (c, gradients(conv, *x, stride, padding)), None, xs)[1])(*args)
    outside = [gradients(native, *(arg[i] for arg in args), stride, padding) for i in range(3)]
    for actual, expected in zip(scanned, zip(*outside, strict=True), strict=True):
        assert_close(actual, np.stack(expected), 1e-5)


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES[1:5] + CASES[8:11])
def test_bfloat16_gradients_are_the_rounded_exact_ones(shape, size, stride, padding):
    args = operands(shape, size, stride, padding, jnp.bfloat16)
    own = jax.jit(lambda *args: gradients(conv, *args, stride, padding))(*args)
    expected = gradients(native, *(arg.astype(jnp.float32) for arg in args), stride, padding)
    for actual, reference in zip(own, expected, strict=True):
        assert actual.dtype == jnp.bfloat16
        assert_close(actual.astype(jnp.float32), reference, 0.02)


def test_value_and_gradient_keep_working_under_vmap():
    args = operands((2, 6, 6), 3, 2, ((1, 1), (1, 1)), jnp.float32, steps=(3,))
    mapped = jax.vmap(lambda *args: gradients(conv, *args, 2, ((1, 1), (1, 1))))(*args)
    expected = jax.vmap(lambda *args: gradients(native, *args, 2, ((1, 1), (1, 1))))(*args)
    for actual, reference in zip(mapped, expected, strict=True):
        assert_close(actual, reference, 1e-5)


def test_without_jit_and_in_search_of_nans():
    x, kernel, _ = operands((2, 5, 5), 3, 1, ((1, 1), (1, 1)), jnp.float32)
    with jax.disable_jit():
        assert_close(conv(x, kernel, 1, ((1, 1), (1, 1))), native(x, kernel, 1, ((1, 1), (1, 1))), 1e-6)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        conv(x * jnp.nan, kernel, 1, ((1, 1), (1, 1)))


def test_of_no_copies_at_all():
    x, kernel, _ = operands((2, 5, 5), 3, 1, ((1, 1), (1, 1)), jnp.float32, steps=(3,))
    mapped = jax.vmap(lambda x: conv(x, kernel[0], 1, ((1, 1), (1, 1))))
    assert mapped(x[:0]).shape == (0, 2, 5, 5, 5)


@pytest.mark.parametrize("batch", [64, 128])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_over_eight_devices_only_the_kernel_gradient_is_summed(batch, size, stride):
    padding = ((size // 2,) * 2,) * 2
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    args = operands((batch, 6, 5), size, stride, padding, jnp.float32)
    sharded = [jax.device_put(a, s) for a, s in zip(args, (split, whole, split), strict=True)]

    expected = gradients(native, *args, stride, padding)
    for i, (sharding, collectives) in enumerate([(split, set()), (whole, {"all-reduce"})]):
        function = jax.jit(lambda *args, i=i: gradients(conv, *args, stride, padding)[i], out_shardings=sharding)
        compiled = function.lower(*sharded).compile()
        names = r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
        assert set(re.findall(rf" ({names})(?:-start)?\(", compiled.as_text())) == collectives
        assert_close(compiled(*sharded), expected[i], 1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (7, 7, 3, 16), (1, 1, 32, 6)])
def test_kernels_are_drawn_as_flax_draws_them(shape):
    key = jax.random.key(3)
    np.testing.assert_array_equal(jax.random.bits(key, (np.prod(shape),)).reshape(shape), jax.random.bits(key, shape))
    usual = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    for draw in (lambda init: init, jax.jit):
        ours, theirs = (draw(lambda key, init=init: init(key, shape, jnp.float32))(key) for init in (he_normal, usual))
        # From the same bits, and equal with jax 0.10; with 0.12 XLA rounds the one of them otherwise.
        np.testing.assert_allclose(ours, theirs, rtol=2.5e-7, atol=0)
