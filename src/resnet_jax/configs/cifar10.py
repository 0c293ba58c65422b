"""CIFAR-10 with the paper's recipe (section 4.2): 64,000 iterations of 128 images.

    resnet-jax train --config=cifar10 --config.model.depth=56 --config.model.shortcut=A --workdir=runs/cifar10-56
    resnet-jax train --config=cifar10:plain --config.model.depth=56 --workdir=runs/cifar10-plain56

Expected test error (paper, table 6, %): 20 layers 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61 ± 0.16, 1202: 7.93.
From 110 layers on, the learning rate warms up at 0.01 until the training error is below 80 %.

Batch-norm statistics are those of 64 images, as the paper's two GPUs had them; with a `train.batch_size` that 64 does
not divide, or microbatches (`train.grad_accum_steps`) of fewer images, give `--config.model.bn_group_size` too.
"""

from resnet_jax.configs import base
from resnet_jax.configs.base import Config


def get_config(variant: str = "") -> Config:
    """The residual network, or with variant "plain" its plain twin."""
    config = base.get_config()
    config.model.update(family=base.cifar_family(variant), bn_group_size=64)
    return config
