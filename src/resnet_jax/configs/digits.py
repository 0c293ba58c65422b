"""The 1,797 handwritten digits that ship inside scikit-learn: real images, no download, a minute on two CPU cores.

    resnet-jax train --config=digits --workdir=runs/digits
    resnet-jax train --config=digits:plain --config.model.depth=20 --workdir=runs/digits-plain20

The paper's recipe, shortened and without mirror images: a digit's mirror image is no digit.
"""

from resnet_jax.configs import base
from resnet_jax.configs.base import Config


def get_config(variant: str = "") -> Config:
    """The residual network, or with variant "plain" its plain twin."""
    config = base.get_config()
    config.model.family = base.cifar_family(variant)
    config.dataset.update(name="digits", pad=1, mirror=False)
    config.train.update(batch_size=64, iterations=1_200, log_every=50, eval_every=200, checkpoint_every=200)
    config.eval.batch_size = 120
    return config
