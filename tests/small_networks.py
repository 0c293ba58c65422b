"""A classifier that compiles in a second and whose batch norms do something."""

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data import Preprocessing
from resnet_jax.evaluation import Classifier
from resnet_jax.models import ResNet, init


def small_classifier(shape=(8, 8, 1), classes=3, seed=0, mean=100.0, **fields):
    """Two stages of one block each, with random statistics, scales and biases; a map of 8 x 8 ends as 4 x 4."""
    fields = {"stage_sizes": (1, 1), "widths": (4, 6), "shortcut": "A", "stem": "cifar", "unroll": True} | fields
    model = ResNet(bottleneck=False, num_classes=classes, **fields)
    variables = jax.device_get(init(model, shape, jax.random.key(seed)))
    generator = np.random.default_rng(seed)

    def drawn(path, leaf):
        name = path[-1].key
        low, high = {"mean": (-1, 1), "var": (0.5, 2), "scale": (0.5, 1.5), "bias": (-1, 1)}.get(name, (0, 0))
        values = generator.uniform(low, high, leaf.shape).astype(np.float32)
        return values if low != high else leaf * (50 if path[-2].key == "fc" else 1)

    variables = jax.tree_util.tree_map_with_path(drawn, variables)
    names = tuple(f"class {i}" for i in range(classes))
    preprocessing = Preprocessing(jnp.full((1, 1, shape[-1]), mean), jnp.full((1, 1, shape[-1]), 50.0))
    return Classifier(model, variables, preprocessing, names, shape)


def random_images(count, shape=(8, 8, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
