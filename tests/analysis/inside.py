"""Small networks, each of whose variables is drawn, so that nothing in them is 0 or 1 by chance."""

import functools

import jax
import numpy as np

from resnet_jax.data import Preprocessing
from resnet_jax.evaluation import Classifier
from resnet_jax.models import ResNet, abstract_variables

SHAPE = (8, 8, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
LABELS = np.arange(6) % 3


@functools.cache
def classifier(shortcut, bottleneck=False, sizes=(2, 3), preactivation=False) -> Classifier:
    model = ResNet(sizes, (3, 4), bottleneck, "cifar", 3, shortcut, preactivation=preactivation)
    draws = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return draws.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return draws.normal(0, 0.5, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, abstract_variables(model, SHAPE))
    norm = Preprocessing.of_channels([0.4, 0.5], [0.2, 0.3])
    return Classifier(model, variables, norm, ("a", "b", "c"), SHAPE)


def at(tree, name):
    for part in name.split("/"):
        tree = tree[part]
    return tree
