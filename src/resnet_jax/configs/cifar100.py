"""CIFAR-100 with the paper's CIFAR-10 recipe (the paper has no result on it).

resnet-jax train --config=cifar100 --config.model.depth=56 --workdir=runs/cifar100-56
"""

from resnet_jax.configs import cifar10
from resnet_jax.configs.base import Config


def get_config(variant: str = "") -> Config:
    """As `cifar10`, on 100 classes."""
    config = cifar10.get_config(variant)
    config.dataset.name = "cifar100"
    return config
