"""The networks, as pure Linen modules that know no config, no mesh and no data."""

from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stacking import stack, unstack
from resnet_jax.models.variables import abstract_variables, init
from resnet_jax.models.zoo import FAMILIES, NAMES, create

__all__ = ["FAMILIES", "NAMES", "ResNet", "abstract_variables", "create", "init", "stack", "unstack"]
