"""Every field of a config, with the paper's CIFAR-10 recipe (section 4.2) as values. The other configs amend this
one.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.errors import InputError

if TYPE_CHECKING:

    class Config:
        """A ConfigDict as type checkers see it, which know its sections and not their fields."""

        seed: int
        init: Any
        model: Any
        dataset: Any
        stream: Any
        optimizer: Any
        train: Any
        eval: Any
        mesh: Any

        def __init__(self, fields: Mapping[str, Any]): ...
        def __getitem__(self, name: str) -> Any: ...
        def to_dict(self) -> dict[str, Any]: ...
        def to_json_best_effort(self) -> str: ...
        def copy_and_resolve_references(self) -> "Config": ...
        def update(self, other: "Config") -> None: ...
        def update_from_flattened_dict(self, fields: Mapping[str, Any]) -> None: ...
        def ignore_type(self) -> AbstractContextManager[None]: ...
else:
    Config = ConfigDict


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
    """A config of all fields; a field whose value is None is derived from others in `resnet_jax.runs.build`."""
    return Config(
        {
            # Initial parameters, order of the images and augmentation depend on the seed and on nothing else.
            "seed": 0,
            # What training begins with; without `weights`, with parameters that are drawn.
            "init": {
                # The workdir of a run, or a file of PyTorch weights. Fields of `model` and `stream` may be None then,
                # for what the weights are of (see `fields.OF_WEIGHTS`); pixels are normalised as for them in any case.
                "weights": placeholder(str),
                # The classifier of other classes than the weights': "zero", or "normal", drawn as a new network's.
                # "keep": theirs, for as many classes.
                "head": "zero",
                # The last part that is not trained: "stem", "stage1", … or "backbone", which is all but the classifier.
                # Nothing is trained before it, and no gradient computed.
                "freeze": placeholder(str),
                # Batch norms of frozen parts use the statistics of the batch and follow them, instead of the weights'.
                "live_statistics": False,
            },
            "model": {
                # "cifar_resnet", "cifar_plain", "cifar_highway" or "cifar_preact" (pre-activation), with 6n + 2 layers;
                # "resnet", "plain" or "preact" with 18, 34, 50, 101 or 152.
                "family": "cifar_resnet",
                # Layers with weights: those of the shortcuts are not counted.
                "depth": 20,
                # "A" zero padding, "B" projection where dimensions grow, "C" all projections. A plain net has none.
                "shortcut": "A",
                # Where option A puts its zero channels: "end", or "both" for half before and half after.
                "shortcut_padding": "end",
                # Which convolution of a bottleneck has the stride: "1x1" (the paper's release) or "3x3" (v1.5).
                "bottleneck_stride": "1x1",
                # Of the ImageNet stem's pooling: "caffe" (the paper's release) or "torch".
                "stem_pool_padding": "caffe",
                # Of the convolutions and the stem's pooling: "zeros", or "wrap", the pixels of the other side.
                "padding": "zeros",
                # Layers in a block that is no bottleneck: 2; with 1 or 3, CIFAR networks have 3n + 2 or 9n + 2 layers.
                "block_layers": 2,
                # Of a highway network: "coupled", the carry gate is one minus the transform gate; or "uncoupled", it is
                # learned too. Others have no gates, and neither another value here nor a `gate_bias`.
                "gates": "coupled",
                # With which learned gates begin; None: half of the input is carried through all blocks.
                "gate_bias": placeholder(float),
                # The last batch norm of each residual branch begins with a scale of 0 instead of 1, so that each block
                # begins as its shortcut (1706.02677, section 5.1; so named by torchvision and timm).
                "zero_init_residual": False,
                # What the running statistics keep of themselves at each step.
                "batch_norm_momentum": 0.9,
                # Added to the variance.
                "batch_norm_epsilon": 1e-5,
                # Images that share batch-norm statistics (ghost batch norm); None ("none" on the command line) is the
                # whole batch. The paper's two GPUs had 64 each.
                "bn_group_size": placeholder(int),
                # Of the computation: "float32", "bfloat16", or "auto": bfloat16 on accelerators, float32 on CPU.
                "dtype": "float32",
                # Computes each block again in the backward pass instead of keeping what is inside it.
                "remat": False,
                # Writes the blocks of a stage out instead of scanning them. None does so on accelerators, up to 40 in a
                # stage, and not on CPUs.
                "unroll": placeholder(bool),
            },
            "dataset": {
                # "digits", "cifar10", "cifar100"; of photographs "imagenet2012", "folder" or "cache".
                "name": "cifar10",
                # Where TFDS keeps its prepared data (None is ~/tensorflow_datasets), or the folder, or the cache; on a
                # disk, to which `resnet-jax prepare stage` copies what lies in a bucket.
                "data_dir": placeholder(str),
                # Training images kept back to validate on; 5000 is the paper's 45k/5k split.
                "validation_images": 0,
                # Pixels of zero padding around a small image before the random crop; photographs have `stream` instead.
                "pad": 4,
                # Mirrors half of the images, drawn at random.
                "mirror": True,
            },
            # How photographs become the network's images; the defaults are the paper's (section 3.4).
            "stream": {
                # Of the window that the network sees, in pixels.
                "image_size": 224,
                # "random_scale": the shorter side is drawn from `scales`, then a window is cut. "random_resized_crop":
                # 8 to 100 % of the area at an aspect of 3/4 to 4/3, resized.
                "crop": "random_scale",
                # The least and the greatest shorter side of "random_scale", in pixels.
                "scales": (256, 480),
                # What the shorter side becomes in evaluation, before the centre is cut out.
                "resize_size": 256,
                # Of evaluation, "bilinear" or "bicubic"; the paper does not say. Training windows are interpolated
                # linearly.
                "interpolation": "bilinear",
                # "mean_image": subtract that of the training set, measured on `mean_images` of its photographs.
                # "channels": subtract ImageNet's mean of each channel and divide by its standard deviation.
                "normalization": "mean_image",
                # Photographs that the mean image is measured on.
                "mean_images": 10_000,
                # "rgb", or "bgr" as the paper's release.
                "channel_order": "rgb",
                # Standard deviation of AlexNet's colour noise, in eigenvalues; 0 is none.
                "pca_lighting_std": 0.1,
                # Processes that decode. None: all cores but one, or none on fewer than four cores.
                "num_workers": placeholder(int),
                # The share of photographs that may be damaged before the run stops; one may, unless it is 0.
                "max_corrupt_fraction": 0.01,
            },
            "optimizer": {
                # The highest one, before any drop.
                "learning_rate": 0.1,
                # The part of the last step that the next one keeps.
                "momentum": 0.9,
                # "caffe": the rate is inside the momentum (the paper's release). "torch": outside, which differs while
                # the rate changes.
                "momentum_form": "caffe",
                # Times the parameters, added to their gradients.
                "weight_decay": 1e-4,
                # "all" parameters (Caffe's default), or "kernels" of convolutions and the classifier only.
                "decay": "all",
                # "piecewise", or "plateau": divide when the training error has stopped falling.
                "schedule": "piecewise",
                # After which the rate is multiplied by `factor`: iterations (whole numbers), or shares of the training:
                # these are the paper's 32,000 and 48,000 of 64,000.
                "boundaries": (0.5, 0.75),
                # By which the rate is multiplied at a drop.
                "factor": 0.1,
                # Plateau: epochs without a fall of the training error before the rate is multiplied by `factor`.
                "patience": 10,
                # The rate until the training error is below 80 %. None: 0.01 from 110 layers on (n = 18), else 0, which
                # is no warm-up.
                "constant_warmup": placeholder(float),
                # Over which the rate rises linearly, for large batches: iterations, or below 1 a share of the training.
                "warmup_steps": 0.0,
                # The rate that it rises from. None: from 0, of which the first iteration is one step away.
                "warmup_start": placeholder(float),
                # LARS (1708.03888), for batches of more than 8,192 images: the step of each kernel is this part of its
                # norm, times the rate; 0.001 there. None is the paper's plain SGD.
                "trust_coefficient": placeholder(float),
                # By what the rate is multiplied for the stem, for each stage, and for the classifier; () is 1 for all.
                "rate_factors": (),
            },
            "train": {
                # Images of one iteration, on all devices together.
                "batch_size": 128,
                # Microbatches that a batch is split into, one after another, where the devices cannot hold it at once.
                # The result is the same where `model.bn_group_size` is; else a microbatch is a batch-norm group.
                "grad_accum_steps": 1,
                # Of the whole training; one is one step of the optimiser. Ignored where `train.epochs` is set.
                "iterations": 64_000,
                # How often each training image is seen, such as 90 or 0.5; where it is set, the iterations follow from
                # it, and `train.iterations` is ignored.
                "epochs": placeholder(float),
                # Iterations in one dispatch and between two lines of metrics.jsonl.
                "log_every": 100,
                # Iterations between two evaluations; rounded up to whole dispatches.
                "eval_every": 1_000,
                # Iterations between two checkpoints; rounded up to whole dispatches. In a bucket one is left out while
                # the one before is on its way.
                "checkpoint_every": 2_000,
                # How many of the last checkpoints are kept.
                "keep_last": 3,
                # Every checkpoint whose iteration this number divides is kept for good; None keeps none of them so.
                "keep_every": placeholder(int),
                # Keeps the checkpoint with the least validation error too. The result stays that of the last iteration.
                "keep_best": False,
                # Steps in a row that are left out when the loss or a gradient is not finite, before the run stops;
                # with 0 it stops at the first one.
                "max_skipped_steps": 0,
                # Of exponential moving averages of the variables, which are evaluated then; None keeps no averages.
                "ema_decay": placeholder(float),
            },
            # Images that are evaluated at a time.
            "eval": {"batch_size": 512},
            # The devices, data x fsdp, share a batch. Those along fsdp also share one copy of the parameters and of the
            # optimiser's state. None is as many as there are.
            "mesh": {"data": placeholder(int), "fsdp": 1},
        }
    )
