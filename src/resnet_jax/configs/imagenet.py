"""ImageNet with the paper's recipe (section 3.4): 600,000 iterations of 256 photographs.

    resnet-jax train --config=imagenet --config.dataset.data_dir=DIR --config.model.depth=50 --workdir=runs/resnet50
    resnet-jax train --config=imagenet:plain --config.model.depth=34 --workdir=runs/plain34

The paper divides the rate "when the error plateaus" and does not say when that was; figure 4 shows drops near 150,000
and 300,000 iterations, the boundaries here. `--config.optimizer.schedule=plateau` lets the training error decide.

Expected validation error (paper, tables 2 and 3, ten crops, top-1 %): ResNet-18 A 27.88, -34 A 25.03, B 24.52, C 24.19,
-50 22.85, -101 21.75, -152 21.43, plain-18 27.94, plain-34 28.54.
"""

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.errors import InputError


def get_config(variant: str = "") -> Config:
    """The residual network, or with variant "plain" its plain twin."""
    families = {"": "resnet", "plain": "plain"}
    if variant not in families:
        raise InputError(f"there is no variant {variant!r} of this config: it has ':plain'")
    config = base.get_config()
    # The paper's eight GPUs normalised 32 images each.
    config.model.update(family=families[variant], depth=50, shortcut="B", bn_group_size=32, dtype="auto")
    config.dataset.name = "imagenet2012"
    config.optimizer.boundaries = (150_000, 300_000)
    config.train.update(batch_size=256, iterations=600_000, log_every=100, eval_every=5_000, checkpoint_every=5_000)
    config.eval.batch_size = 256
    return config
