"""Photographs of your own, told apart by a network that was trained before: DIR/train/CLASS/*.jpg and DIR/val/CLASS/….

    resnet-jax train --config=finetune --config.init.weights=FILE --config.dataset.data_dir=DIR --workdir=runs/mine

The weights are a workdir of `resnet-jax train`, or a file of torchvision's, timm's or akamaster's ResNets; they say
which network it is and what images it wants. All but the classifier is frozen, with its batch-norm statistics. The 500
iterations see 16,000 photographs: of more than a few thousand say --config.train.epochs instead.
"""

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.configs.fields import OF_WEIGHTS


def get_config() -> Config:
    """The config."""
    config = base.get_config()
    config.update_from_flattened_dict(dict.fromkeys(OF_WEIGHTS))
    config.init.freeze = "backbone"
    config.model.dtype = "auto"
    config.dataset.name = "folder"
    config.stream.update(crop="random_resized_crop", pca_lighting_std=0.0, max_corrupt_fraction=0.1)
    config.optimizer.update(learning_rate=0.01, momentum_form="torch", weight_decay=0.0, warmup_steps=0.04)
    config.train.update(batch_size=32, iterations=500, log_every=20, eval_every=100, checkpoint_every=100)
    config.eval.batch_size = 64
    return config
