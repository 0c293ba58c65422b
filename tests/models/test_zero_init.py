"""`zero_init_residual`: every block begins as its shortcut, and the others' parameters are drawn as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models

NETWORKS = {
    "basic": (models.ResNet((2, 2), (4, 8), False, "cifar", 5, "A"), "bn2"),
    "bottleneck": (models.ResNet((2, 2), (2, 4), True, "imagenet", 5, "B"), "bn3"),
}


# Seconds to compile.
KINDS = ["basic", pytest.param("bottleneck", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_last_scale_of_each_block_is_zero(kind):
    network, last = NETWORKS[kind]
    usual, zeroed = (
        jax.jit(lambda net=net: net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), False))()
        for net in (network, network.clone(zero_init_residual=True))
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(usual):
        other = dict(jax.tree_util.tree_leaves_with_path(zeroed))[path]
        names = [key.key for key in path]
        ends = names[-2:] == [last, "scale"] and names[1].startswith("stage")
        np.testing.assert_array_equal(other, np.zeros_like(leaf) if ends else leaf)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_begin_as_their_shortcuts_and_learn(kind):
    network, last = NETWORKS[kind]
    network = network.clone(zero_init_residual=True)
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images, False))()

    @jax.jit
    def run(params):
        def loss(params):
            maps, _ = network.apply(
                {**variables, "params": params}, images, True, method="stages", mutable=["batch_stats"]
            )
            logits = network.apply({"params": params}, maps["stage2"], method="head")
            return jnp.square(logits[:, 0]).sum() + logits[:, 1].sum(), maps

        return jax.grad(loss, has_aux=True)(params)

    gradients, maps = run(variables["params"])
    first = network.clone(stage_sizes=(1, 1))
    shallow = {
        part: {name: {"first": tree["first"]} if name.startswith("stage") else tree for name, tree in trees.items()}
        for part, trees in variables.items()
    }
    expected, _ = jax.jit(lambda: first.apply(shallow, images, True, method="stages", mutable=["batch_stats"]))()
    # The blocks after the first of each stage change nothing: their input has passed a ReLU.
    for stage, found in maps.items():
        np.testing.assert_allclose(found, expected[stage], rtol=1e-4, atol=1e-5)
    if kind == "basic":
        # Option A in the second stage: every second pixel of the first stage's map, and zeros.
        np.testing.assert_array_equal(maps["stage2"][..., :4], maps["stage1"][:, ::2, ::2])
        np.testing.assert_array_equal(maps["stage2"][..., 4:], 0)
    for stage in ("stage1", "stage2"):
        for block in gradients[stage].values():
            assert np.abs(block[last]["scale"]).max() > 0
