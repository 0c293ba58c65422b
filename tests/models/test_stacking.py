import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import models
from resnet_jax.models.stacking import is_stacked

MODEL = models.ResNet((3, 1), (4, 8), False, "cifar", 5, "B")


def test_blocks_are_separated_and_joined_to_the_bit():
    variables = jax.device_get(models.init(MODEL, (8, 8, 3), jax.random.key(0)))
    single = models.unstack(variables)
    stage = single["params"]["stage1"]
    assert list(stage) == ["block1", "block2", "block3"]
    assert list(single["params"]["stage2"]) == ["block1"]
    kernels = variables["params"]["stage1"]["rest"]["conv2"]["kernel"]
    np.testing.assert_array_equal(stage["block3"]["conv2"]["kernel"], kernels[1])
    joined = models.stack(single)
    assert {type(leaf) for leaf in jax.tree.leaves(joined)} == {np.ndarray}
    jax.tree.map(np.testing.assert_array_equal, joined, variables)
    # One collection alone, and arrays of a device.
    params = jax.tree.map(jnp.asarray, variables["params"])
    jax.tree.map(np.testing.assert_array_equal, models.stack(models.unstack(params)), params)


def test_shapes_are_those_of_the_arrays():
    variables = models.init(MODEL, (8, 8, 3), jax.random.key(0))
    shapes = models.abstract_variables(MODEL, [8, 8, 3])
    assert shapes == jax.eval_shape(lambda: variables)
    assert models.unstack(shapes) == jax.eval_shape(lambda: models.unstack(variables))


def test_what_is_stacked_has_an_axis_more():
    shapes = models.abstract_variables(MODEL, (8, 8, 3))
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"]):
        names = [key.key for key in path]
        single = {"kernel": 2 if "fc" in names else 4}.get(names[-1], 1)
        assert leaf.ndim == single + is_stacked(names), names
