"""The networks, as pure Linen modules that know no config, no mesh and no data."""

from resnet_jax.models.resnet import ResNet
from resnet_jax.models.zoo import NAMES, create

__all__ = ["NAMES", "ResNet", "create"]
