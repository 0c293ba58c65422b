"""ImageNet with the recipe that the field has settled on: 90 epochs, random resized crops, ResNet v1.5.

    resnet-jax train --config=imagenet_90ep --config.dataset.data_dir=DIR --workdir=runs/resnet50-90ep
    resnet-jax train --config=imagenet_90ep:large_batch --config.dataset.data_dir=DIR --workdir=runs/resnet50-8192

Whatever the batch size, the epochs stay 90, and the rate 0.1 for each 256 photographs. "large_batch" has 8,192 of them
and what Goyal et al. (1706.02677) say that these need: the rate rises linearly from 0.1 to 3.2 over five epochs and
drops a third time after 80 epochs; the last batch norm of each block begins with a scale of zero; batch norms are not
decayed; the rate stands outside the momentum; statistics are those of 32 photographs. It has neither Nesterov's
momentum, for which they say that the plain one is as good, nor their decay of the classifier's bias.

Expected validation error of ResNet-50 (torchvision's V1 weights, one crop): top-1 23.85 %, top-5 7.13 %.
"""

from resnet_jax.configs import imagenet
from resnet_jax.configs.base import Config
from resnet_jax.errors import InputError

_TRAIN_IMAGES = 1_281_167


def get_config(variant: str = "") -> Config:
    """256 photographs in a batch, or with variant "large_batch" 8,192."""
    if variant not in ("", "large_batch"):
        raise InputError(f"there is no variant {variant!r} of this config: it has ':large_batch'")
    config = imagenet.get_config()
    config.model.update(bottleneck_stride="3x3", stem_pool_padding="torch")
    config.stream.update(crop="random_resized_crop", normalization="channels", pca_lighting_std=0.0)
    config.train.update(eval_every=5_000, checkpoint_every=5_000)
    if variant == "large_batch":
        config.train.update(batch_size=8_192, eval_every=500, checkpoint_every=500)
    # References: a batch size that is given on the command line changes them too.
    batch_size = config.train.get_ref("batch_size")
    config.train.iterations = 90 * _TRAIN_IMAGES // batch_size
    config.optimizer.learning_rate = batch_size.to_float() * (0.1 / 256)
    config.optimizer.boundaries = (1 / 3, 2 / 3)
    if variant == "large_batch":
        config.optimizer.boundaries = (1 / 3, 2 / 3, 8 / 9)
        config.optimizer.update(warmup_steps=5 / 90, warmup_start=0.1, momentum_form="torch", decay="kernels")
        config.model.zero_init_residual = True
    return config
