"""The networks of the paper, as pure Linen modules. They know no config, no mesh and no data.

`create` makes a network by its name and `ResNet` one of any size. `init` draws its variables, `model.apply` computes
with them. Its parts can be called alone: `stages` (feature maps), `stage` (one of them, on regions) and `head` (from a
map to logits). Blocks that are alike lie in one array; `unstack` separates them for whoever looks at single blocks.

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

from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stacking import stack, unstack
from resnet_jax.models.zoo import FAMILIES, NAMES, abstract_variables, create, init

__all__ = ["FAMILIES", "NAMES", "ResNet", "abstract_variables", "create", "init", "stack", "unstack"]
