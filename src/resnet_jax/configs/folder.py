"""Your own photographs: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, any number of classes.

Classes may have folders in their folders. Every format is read that Pillow reads, and photographs are turned as their
EXIF orientation says.

    resnet-jax train --config=folder --config.dataset.data_dir=DIR --workdir=runs/mine

A ResNet-18 with the common augmentation, sized for a few thousand photographs; `--config.train.epochs` says how often
each one is seen.
"""

from resnet_jax.configs import base
from resnet_jax.configs.base import Config


def get_config() -> Config:
    """The config."""
    config = base.get_config()
    config.model.update(family="resnet", depth=18, shortcut="B", dtype="auto")
    config.dataset.name = "folder"
    config.stream.update(
        crop="random_resized_crop", normalization="channels", pca_lighting_std=0.0, max_corrupt_fraction=0.05
    )
    config.optimizer.update(learning_rate=0.05, warmup_steps=1 / 30)
    config.train.update(batch_size=64, iterations=3_000, log_every=20, eval_every=200, checkpoint_every=200)
    config.eval.batch_size = 64
    return config
