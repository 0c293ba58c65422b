"""The networks, as pure Linen modules that know no config, no mesh and no data."""

from resnet_jax.models.resnet import ResNet
from resnet_jax.models.zoo import FAMILIES, NAMES, create

__all__ = ["FAMILIES", "NAMES", "ResNet", "create"]
