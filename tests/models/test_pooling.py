"""Max pooling and its derivatives, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
from jax import export

from resnet_jax.models.layers import max_pool

SIZES = [(1, 1), (2, 2), (3, 3), (1, 4), (2, 5), (4, 4), (5, 6), (7, 7), (8, 11), (12, 12)]


@pytest.mark.parametrize("alignment", ["caffe", "torch"])
@pytest.mark.parametrize("size", SIZES)
def test_max_pool(size, alignment):
    x = (
        np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32) - 10
    )  # below the zeros of a wrong padding
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), alignment), numpy_reference.max_pool(x, alignment))


def test_the_alignments_differ_even_where_their_shapes_agree():
    x = jnp.arange(64.0).reshape(1, 8, 8, 1)
    caffe, torch = max_pool(x, "caffe"), max_pool(x, "torch")
    assert caffe.shape == torch.shape == (1, 4, 4, 1)
    np.testing.assert_array_equal(caffe[0, 0, :, 0], [18, 20, 22, 23])
    np.testing.assert_array_equal(torch[0, 0, :, 0], [9, 11, 13, 15])


@pytest.mark.parametrize("alignment", ["caffe", "torch"])
@pytest.mark.parametrize("size", SIZES)
def test_each_window_hands_its_gradient_to_its_first_largest_value(size, alignment):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (2, *size, 3)).astype(np.float32)  # most windows have several
    pooled, backward = jax.vjp(lambda x: max_pool(x, alignment), jnp.asarray(x))
    cotangent = rng.integers(-4, 5, pooled.shape).astype(np.float32)
    expected = np.zeros_like(x)
    before = 0 if alignment == "caffe" else 1
    for b, i, j, c in np.ndindex(pooled.shape):
        rows = range(max(2 * i - before, 0), min(2 * i - before + 3, size[0]))
        columns = range(max(2 * j - before, 0), min(2 * j - before + 3, size[1]))
        row, column = max(((r, k) for r in rows for k in columns), key=lambda at: x[b, *at, c])
        expected[b, row, column, c] += cotangent[b, i, j, c]
    np.testing.assert_array_equal(backward(jnp.asarray(cotangent))[0], expected)


def test_pooling_has_a_forward_derivative_and_no_second_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 6, 2)), jnp.float32)
    direction = jnp.ones_like(x)
    pooled, tangent = jax.jvp(lambda x: max_pool(x, "torch"), (x,), (direction,))
    np.testing.assert_array_equal(tangent, np.ones(pooled.shape))

    def loss(x):
        return jnp.square(max_pool(x, "torch")).sum()

    # Of the sum of squares, twice the number of windows that each pixel is the largest of.
    wins = jax.grad(lambda x: max_pool(x, "torch").sum())(x)
    curvature = jax.jvp(jax.grad(loss), (x,), (direction,))[1]
    np.testing.assert_array_equal(curvature, 2 * wins)


def test_the_gradient_can_be_exported_for_any_number_of_images():
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), 6, 7, 2), jnp.float32)
    gradient = jax.grad(lambda x: max_pool(x, "caffe").sum())
    program = export.export(jax.jit(gradient))(images)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 7, 2)), jnp.float32)
    np.testing.assert_array_equal(program.call(x), gradient(x))
