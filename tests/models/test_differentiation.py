"""Every network has derivatives forwards, backwards and repeatedly, on every platform, over devices and copies."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

from resnet_jax import models
from resnet_jax.models.conv import conv

FAMILIES = {
    "basic": models.ResNet((2, 1), (4, 8), False, "cifar", 5, "A"),
    "projections": models.ResNet((2, 1), (4, 8), False, "cifar", 5, "B"),
    "all projections": models.ResNet((2, 1), (4, 8), False, "cifar", 5, "C"),
    "plain": models.ResNet((3, 2), (4, 8), False, "cifar", 5, None),
    "bottleneck": models.ResNet((2,), (4,), True, "imagenet", 5, "B"),
    "v1.5": models.ResNet((2, 1), (4, 8), True, "imagenet", 5, "C", bottleneck_stride="3x3", stem_pool_padding="torch"),
    "remat": models.ResNet((3, 2), (4, 8), False, "cifar", 5, "A", remat=True),
    "unroll": models.ResNet((3, 2), (4, 8), False, "cifar", 5, "A", unroll=True, bn_group_size=2),
}
PADDING = ((1, 1), (1, 1))


def drawn(like, seed):
    """Arrays as `like`, around zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)


def problem(model, dtype=jnp.float64, train=True):
    """A smooth function of a network's variables and images, a point, and a direction at it."""
    model = model.clone(dtype=dtype)
    images = jnp.asarray(np.random.default_rng(5).normal(size=(4, 17, 16, 3)), dtype)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    variables = jax.tree.map(lambda noise: (1 + 0.2 * noise).astype(dtype), drawn(shapes, 1))
    variables["params"] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf - 1 if path[-1].key == "kernel" else leaf, variables["params"]
    )
    weights = np.random.default_rng(6).normal(size=(4, 5))

    def loss(params, images):
        logits = model.apply(
            {**variables, "params": params}, images, train, **({"mutable": ["batch_stats"]} if train else {})
        )
        return jnp.sum((logits[0] if train else logits) * weights.astype(dtype))

    point = variables["params"], images
    return loss, point, drawn(point, 2)


def dot(left, right):
    return sum(jnp.vdot(*pair) for pair in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@pytest.mark.parametrize("family", ["basic", "bottleneck"])
def test_forward_mode_can_be_traced(family):
    """Quickly; the numbers are those of the slow tests below."""
    loss, point, direction = problem(FAMILIES[family], jnp.float32)
    assert jax.eval_shape(partial(jax.jvp, loss), point, direction)[1].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_mode_of_each_family(family):
    """The directional derivative: by jvp, by linearize, by the gradient, and by differences."""
    with jax.enable_x64(True):
        loss, point, direction = problem(FAMILIES[family])

        @jax.jit
        def derivatives(point, direction):
            value, forwards = jax.jvp(loss, point, direction)
            linearized, pushed = jax.linearize(loss, *point)

            def along(step):
                return loss(*jax.tree.map(lambda a, b: a + step * b, point, direction))

            step = 1e-8  # small, for ReLU has kinks
            differences = (along(step) - along(-step)) / (2 * step)
            backwards = dot(jax.grad(loss, (0, 1))(*point), direction)
            return (value, linearized, loss(*point)), (forwards, pushed(*direction), backwards, differences)

        values, slopes = derivatives(point, direction)
    np.testing.assert_allclose(values, values[-1], rtol=1e-12)
    np.testing.assert_allclose(slopes[:2], slopes[2], rtol=1e-10)
    np.testing.assert_allclose(slopes[3], slopes[2], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["basic", "bottleneck", "remat"])
def test_hessian_vector_products_in_all_orders(family):
    with jax.enable_x64(True):
        loss, (params, images), (direction, _) = problem(FAMILIES[family])

        @jax.jit
        def products(params, direction):
            def gradient(params):
                return jax.grad(loss)(params, images)

            forward_over_reverse = jax.jvp(gradient, (params,), (direction,))[1]
            reverse_over_forward = jax.grad(lambda p: jax.jvp(lambda q: loss(q, images), (p,), (direction,))[1])(params)
            reverse_over_reverse = jax.grad(lambda p: dot(gradient(p), direction))(params)
            step = 1e-8
            after, before = (
                gradient(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction)) for s in (step, -step)
            )
            differences = jax.tree.map(lambda a, b: (a - b) / (2 * step), after, before)
            found = forward_over_reverse, reverse_over_forward, reverse_over_reverse, differences
            return jnp.stack([jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(each)]) for each in found])

        found = products(params, direction)
    scale = np.abs(found[0]).max()
    np.testing.assert_allclose(found[1:3], found[:1].repeat(2, 0), atol=1e-10 * scale, rtol=0)
    np.testing.assert_allclose(found[3], found[0], atol=1e-3 * scale, rtol=0)


def native(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(dtype=jnp.float64, copies=()):
    rng = np.random.default_rng(0)
    shapes = (4, 6, 7, 3), (3, 3, 3, 5), (4, 6, 7, 3), (3, 3, 3, 5)
    return tuple(jnp.asarray(rng.normal(size=(*copies, *shape)), dtype) for shape in shapes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("stride", [1, 2])
def test_tangents_are_those_of_the_native_convolution(stride, dtype):
    with jax.enable_x64(dtype == "float64"):
        x, kernel, dx, dk = operands(dtype)
        for tangents in ((dx, dk), (dx, jnp.zeros_like(dk))):
            found, expected = (
                jax.jvp(lambda x, k, f=f: f(x, k, stride, PADDING), (x, kernel), tangents) for f in (conv, native)
            )
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.dtype == theirs.dtype == dtype
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("x_axis", "kernel_axis"),
    [*(pytest.param(*axes, marks=pytest.mark.slow) for axes in [(0, None), (None, 3)]), (2, 1)],
)
def test_gradients_and_tangents_under_vmap(x_axis, kernel_axis, stride):
    """A gradient of mapped functions, a mapped gradient, and both twice over."""
    with jax.enable_x64(True):
        x, kernel, dx, dk = operands(copies=(2, 3))
        axes = (x_axis, kernel_axis)

        def results(function):
            def one(x, k):
                return jnp.sin(function(x, k, stride, PADDING)).sum()

            def place(array, axis):
                return array[:, 0] if axis is None else jnp.moveaxis(array, 1, 1 + axis)

            primals = (place(x, x_axis), place(kernel, kernel_axis))
            tangents = (place(dx, x_axis), place(dk, kernel_axis))
            inner = jax.vmap(one, axes)

            def total(x, k):
                return jax.vmap(inner)(x, k).sum()

            yield jax.grad(total, (0, 1))(*primals)
            yield jax.jvp(jax.grad(total, (0, 1)), primals, tangents)
            yield jax.vmap(lambda x, k: jax.vmap(jax.grad(one, (0, 1)), axes)(x, k))(*primals)
            yield jax.vmap(lambda *args: jax.jvp(inner, args[:2], args[2:]))(*primals, *tangents)

        for found, expected in zip(results(conv), results(native), strict=True):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), found, expected)


@pytest.mark.slow
def test_jacobians_and_linear_transposes():
    with jax.enable_x64(True):
        x, kernel, _, _ = operands()
        x = x[:1, :3, :3]
        ours, theirs = (lambda k, f=f: f(x, k, 2, PADDING) for f in (conv, native))
        for jacobian in (jax.jacfwd, jax.jacrev, lambda f: jax.jacfwd(jax.jacrev(lambda k: jnp.sin(f(k)).sum()))):
            np.testing.assert_allclose(jacobian(ours)(kernel), jacobian(theirs)(kernel), rtol=1e-10, atol=1e-12)
        pushed, expected = (jax.linearize(f, kernel)[1] for f in (ours, theirs))
        cotangent = jnp.ones_like(ours(kernel))
        np.testing.assert_allclose(
            jax.linear_transpose(pushed, kernel)(cotangent)[0], jax.linear_transpose(expected, kernel)(cotangent)[0]
        )


@pytest.mark.parametrize("check", [True, False])
def test_inside_shard_map(check):
    """Images over eight devices and a kernel that all have: the sum over devices is right where JAX makes it itself."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = jnp.asarray(rng.normal(size=(16, 6, 7, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 5)))
        dx, dk = jnp.asarray(rng.normal(size=x.shape)), jnp.asarray(rng.normal(size=kernel.shape))

        def results(function, x, kernel, dx, dk, total=lambda x: x):
            def loss(x, k):
                return jnp.sin(function(x, k, 2, PADDING)).sum()

            gradients = jax.grad(loss, (0, 1))(x, kernel)
            slope = jax.jvp(loss, (x, kernel), (dx, dk))[1]
            return gradients[0], gradients[1] if check else total(gradients[1]), total(slope)

        ours = partial(results, conv, total=lambda x: lax.psum(x, "data"))
        split, whole = P("data"), P()
        mapped = jax.shard_map(
            ours,
            mesh=mesh,
            in_specs=(split, whole, split, whole),
            out_specs=(split, whole, whole),
            check_vma=check,
        )
        found, expected = jax.jit(mapped)(x, kernel, dx, dk), results(native, x, kernel, dx, dk)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), found, expected)


def convolutions(text):
    """The dimension numbers of the convolutions in a program."""
    return sorted(re.findall(r"stablehlo.convolution\(.*?dim_numbers = (\S+)", text))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_only_cpus_have_gradients_of_our_own(platform):
    """Elsewhere the program of a gradient has just the convolutions that JAX derives, forwards and backwards."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 6, 7, 3), (3, 3, 3, 5))]

    def program(function):
        def total(x, k):
            return jnp.sin(function(x, k, 1, PADDING)).sum()

        gradients = jax.jit(jax.grad(total, (0, 1)))
        return convolutions(gradients.trace(*args).lower(lowering_platforms=(platform,)).as_text())

    expected = program(native)
    assert len(expected) == 3
    assert (program(conv) == expected) == (platform != "cpu")


@pytest.mark.slow
def test_a_gradient_can_be_exported_for_several_platforms():
    model = models.ResNet((2,), (4,), False, "cifar", 5, "A")
    loss, point, _ = problem(model, jnp.float32)
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=("cpu", "cuda", "tpu"))(*point)
    again = jax.export.deserialize(exported.serialize())
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), again.call(*point), jax.jit(jax.grad(loss))(*point)
    )
