"""Every field of a config, with the paper's CIFAR-10 recipe (section 4.2) as values. The other configs amend this
one.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.configs import Config
from resnet_jax.errors import InputError


def cifar_family(variant: str) -> str:
    """The model family of a config's variant: "" is residual, "plain" its plain twin.

    Raises:
      InputError: another variant.
    """
    families = {"": "cifar_resnet", "plain": "cifar_plain"}
    if variant not in families:
        raise InputError(f"there is no variant {variant!r} of this config: it has ':plain'")
    return families[variant]


def get_config() -> Config:
    """A config of all fields; a field whose value is None is derived from others in `resnet_jax.build`."""
    return ConfigDict(
        {
            # Initial parameters, order of the images and augmentation depend on the seed and on nothing else.
            "seed": 0,
            "model": {
                # "cifar_resnet" or "cifar_plain", with 6n + 2 layers; "resnet" or "plain" with 18, 34, 50, 101 or 152.
                "family": "cifar_resnet",
                "depth": 20,
                # "A" zero padding, "B" projection where dimensions grow, "C" all projections. A plain net has none.
                "shortcut": "A",
                # Where option A puts its zero channels: "end", or "both" for half before and half after.
                "zero_channels": "end",
                # Which convolution of a bottleneck has the stride: "1x1" (the paper's release) or "3x3" (v1.5).
                "stride_in": "1x1",
                # Of the ImageNet stem's pooling: "caffe" (the paper's release) or "torch".
                "pool_alignment": "caffe",
                "batch_norm_momentum": 0.9,
                "batch_norm_epsilon": 1e-5,
                # Images that share batch-norm statistics; None is the whole batch. The paper's two GPUs had 64 each.
                "group_size": placeholder(int),
                # Of the computation: "float32" or "bfloat16".
                "dtype": "float32",
                # Writes the blocks of a stage out instead of scanning them.
                "unroll": False,
            },
            "dataset": {
                "name": "cifar10",
                # Where TFDS keeps its prepared data; None is ~/tensorflow_datasets.
                "data_dir": placeholder(str),
                # Training images kept back to validate on; 5000 is the paper's 45k/5k split.
                "validation_images": 0,
                # Pixels of zero padding around an image before the random crop, and random mirror images.
                "pad": 4,
                "mirror": True,
            },
            "optimizer": {
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                # "all" parameters (Caffe's default), or "kernels" of convolutions and the classifier only.
                "decay": "all",
                # "piecewise", or "plateau": divide when the training error has stopped falling.
                "schedule": "piecewise",
                # Iterations after which the rate is multiplied by `factor`. None: after 1/2 and 3/4 of the training,
                # which are the paper's 32,000 and 48,000 of 64,000.
                "boundaries": placeholder(tuple),
                "factor": 0.1,
                # Plateau: epochs without a fall of the training error before the rate is multiplied by `factor`.
                "patience": 10,
                # The rate until the training error is below 80 %. None: 0.01 from 110 layers on (n = 18), else 0, which
                # is no warm-up.
                "warmup_learning_rate": placeholder(float),
            },
            "train": {
                "batch_size": 128,
                "iterations": 64_000,
                # Iterations in one dispatch and between two lines of metrics.jsonl.
                "log_every": 100,
                # Iterations between two evaluations, and between two checkpoints; rounded up to whole dispatches.
                "eval_every": 1_000,
                "checkpoint_every": 2_000,
            },
            "eval": {"batch_size": 512},
            # Devices that share a batch; None is all of them.
            "mesh": {"data": placeholder(int)},
        }
    )
