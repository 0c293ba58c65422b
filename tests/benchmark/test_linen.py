"""The plain Linen twins, which our networks are timed against, compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linen import linen_twin, to_linen

from resnet_jax.models import ResNet, create


def random_variables(model, images):
    """Variables without the equal entries of an initialisation, which would hide a layer in the wrong place."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0.05, 0.2, leaf.shape), leaf.dtype), shapes)


def logits_and_gradients(model, variables, images, labels):
    @jax.jit
    def run(variables):
        def loss(params):
            logits, updated = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, updated["batch_stats"])

        gradients, (logits, batch_stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return logits, model.apply(variables, images, train=False), {"params": gradients, "batch_stats": batch_stats}

    return run(variables)


@pytest.mark.parametrize(
    ("bottleneck", "stem", "shortcut"),
    [
        (False, "cifar", "A"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((False, "cifar", "C"), (True, "imagenet", "B"))),
    ],
)
def test_a_twin_has_the_logits_and_gradients_of_our_network(bottleneck, stem, shortcut):
    model = ResNet((1, 3), (6, 8), bottleneck, stem, 5, shortcut)
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3) if stem == "imagenet" else (4, 8, 8, 3))
    labels = jnp.arange(4)
    variables = random_variables(model, images)

    logits, running_logits, ours = logits_and_gradients(model, variables, images, labels)
    twin = linen_twin(model)
    twin_logits, twin_running_logits, twins = logits_and_gradients(twin, to_linen(variables), images, labels)

    np.testing.assert_allclose(twin_logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(twin_running_logits, running_logits, rtol=1e-4)
    ours = to_linen(ours)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(twins["params"]))
    jax.tree.map(
        lambda own, other: np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4 * scale),
        ours["params"],
        twins["params"],
    )
    means = [
        {path: leaf for path, leaf in jax.tree.leaves_with_path(tree["batch_stats"]) if path[-1].key == "mean"}
        for tree in (ours, twins)
    ]
    assert means[0].keys() == means[1].keys()
    for path, mean in means[0].items():
        np.testing.assert_allclose(mean, means[1][path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet20",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cifar_plain20", "plain18", "resnet34", "resnet50")),
    ],
)
def test_a_twin_initialises_to_our_shapes(name):
    model = create(name)
    images = jnp.zeros((1, 32, 32, 3))
    ours = jax.eval_shape(lambda: to_linen(model.init(jax.random.key(0), images, train=False)))
    twins = jax.eval_shape(lambda: linen_twin(model).init(jax.random.key(0), images, train=False))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, twins)
