"""The networks of the paper, as pure Linen modules. They know no config, no mesh and no data.

`create` makes a network by its name and `ResNet` one of any size. `VGG` and `HighwayNet` are what the paper compares
with, and `DeepMLP` is the smallest network that shows what depth does. `init` draws the variables of a network, and
`model.apply` computes with them. Its parts can be called alone: `stages` (feature maps), `stage` (one of them, on
regions) and `head` (from a map to logits). Blocks that are alike lie in one array; `unstack` separates them for whoever
looks at single blocks.

>>> import jax
>>> from resnet_jax import models
>>> model = models.create("cifar_resnet8", num_classes=5)
>>> variables = models.init(model, (32, 32, 3), jax.random.key(0))
>>> images = jax.numpy.zeros((2, 32, 32, 3))
>>> model.apply(variables, images, train=False).shape
(2, 5)
>>> maps = model.apply(variables, images, train=False, method="stages")
>>> {name: features.shape for name, features in maps.items()}
{'stem': (2, 32, 32, 16), 'stage1': (2, 32, 32, 16), 'stage2': (2, 16, 16, 32), 'stage3': (2, 8, 8, 64)}
>>> model.apply(variables, maps["stage3"], method="head").shape
(2, 5)
>>> logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
"""

from resnet_jax.models.gates import Gates, half_open_bias
from resnet_jax.models.highway import DeepMLP, HighwayNet
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stacking import stack, unstack
from resnet_jax.models.vgg import VGG
from resnet_jax.models.zoo import FAMILIES, NAMES, abstract_variables, create, init

__all__ = [
    "FAMILIES",
    "NAMES",
    "VGG",
    "DeepMLP",
    "Gates",
    "HighwayNet",
    "ResNet",
    "abstract_variables",
    "create",
    "half_open_bias",
    "init",
    "stack",
    "unstack",
]
