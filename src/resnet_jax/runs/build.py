"""From a config to the objects that it describes. Models, data and steps know no config; this file reads it for
them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax import models
from resnet_jax.configs.base import Config
from resnet_jax.data import sequential, small, stream
from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.images import NAMES
from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_jax.data.resident import Augmentation
from resnet_jax.data.windows import LEAST_AREA
from resnet_jax.distributed.mesh import check_divides, make_mesh
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.layers import batch_norm_maps, bn_groups
from resnet_jax.training import optimizers

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _choice(config: Config, field: str, choices: tuple[str, ...]) -> str:
    value: Any = config
    for name in field.split("."):
        value = value[name]
    if value not in choices:
        raise InputError(f"config.{field} is {value!r}, but it must be one of {', '.join(choices)}")
    return value


def mesh(config: Config) -> Mesh:
    """The mesh of `config.mesh`, over which its batches are sharded in equal parts.

    Raises:
      InputError: the devices do not make it, or the batch does not fit it.
    """
    devices, fields = make_mesh(config.mesh.data, config.mesh.fsdp), config.train
    check_divides(devices, fields.batch_size, "config.train.batch_size", grad_accum_steps=fields.grad_accum_steps)
    # A part of a batch is normalised on its device.
    images = fields.batch_size // (devices.size * fields.grad_accum_steps)
    check_bn_groups(config, images, 1 if fields.grad_accum_steps > 1 else devices.size)
    return devices


def model(config: Config, num_classes: int) -> ResNet:
    """The network of `config.model`.

    Raises:
      InputError: an unknown family, depth or choice.
    """
    family = _choice(config, "model.family", models.FAMILIES)
    shortcut = _choice(config, "model.shortcut", ("A", "B", "C"))
    fields = config.model
    choices = {
        "shortcut_padding": _choice(config, "model.shortcut_padding", ("end", "both")),
        "bottleneck_stride": _choice(config, "model.bottleneck_stride", ("1x1", "3x3")),
        "stem_pool_padding": _choice(config, "model.stem_pool_padding", ("caffe", "torch")),
        "dtype": _dtype(config),
    }
    try:
        return models.create(
            f"{family}{fields.depth}",
            num_classes=num_classes,
            shortcut=None if family.endswith("plain") else shortcut,
            momentum=fields.batch_norm_momentum,
            epsilon=fields.batch_norm_epsilon,
            bn_group_size=fields.bn_group_size,
            remat=fields.remat,
            unroll=fields.unroll,
            zero_init_residual=fields.zero_init_residual,
            **choices,
        )
    except ValueError as error:
        raise InputError(f"config.model: {error}") from error


def _dtype(config: Config) -> Any:
    name = _choice(config, "model.dtype", (*_DTYPES, "auto"))
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return _DTYPES[name]


def schedule(config: Config) -> optax.Schedule:
    """The learning rate at each iteration, before the paper's warm-up and plateaus."""
    fields = config.optimizer
    if _choice(config, "optimizer.schedule", ("piecewise", "plateau")) == "plateau":
        rates = optax.constant_schedule(fields.learning_rate)
    else:
        total = config.train.iterations
        boundaries = tuple(each if isinstance(each, int) else int(each * total) for each in fields.boundaries)
        rates = optimizers.piecewise(fields.learning_rate, boundaries, fields.factor)
    if not fields.warmup_steps:
        return rates
    return optimizers.ramped(rates, fields.warmup_steps, fields.warmup_start)


def optimizer(config: Config, train_images: int) -> optax.GradientTransformationExtraArgs:
    """The optimiser of `config.optimizer`; the training set's size sets the length of a plateau's epochs."""
    fields = config.optimizer
    warmup = fields.constant_warmup
    if warmup is None:
        warmup = 0.01 if config.model.depth >= 110 and config.model.family.startswith("cifar") else 0.0
    plateau = None
    if fields.schedule == "plateau":
        plateau = optax.contrib.reduce_on_plateau(
            factor=fields.factor,
            patience=fields.patience,
            accumulation_size=max(train_images // config.train.batch_size, 1),
            min_scale=1e-4,
        )
    return optimizers.sgd(
        schedule(config),
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        decay_everything=_choice(config, "optimizer.decay", ("all", "kernels")) == "all",
        warmup=warmup or None,
        plateau=plateau,
        trust_coefficient=fields.trust_coefficient,
        momentum_form=_choice(config, "optimizer.momentum_form", ("caffe", "torch")),
    )


def augmentation(config: Config) -> Augmentation:
    """The augmentation of a data set that lies on the devices."""
    return Augmentation(config.dataset.pad, config.dataset.mirror)


def cropping(config: Config) -> stream.Cropping:
    """How the windows of photographs are drawn."""
    fields = config.stream
    return stream.Cropping(fields.crop, tuple(fields.scales), fields.image_size)


def resize_sizes(config: Config) -> dict[str, float]:
    """Of a whole photograph, the greatest shorter sides in pixels that training and evaluation resize it to."""
    fields = config.stream
    sides: dict[str, float] = {"config.stream.resize_size": fields.resize_size}
    if fields.crop == "random_scale":
        sides["config.stream.scales"] = max(fields.scales)
    else:
        # Of a square photograph, whose least window becomes one of `side` pixels.
        sides["config.stream.crop"] = fields.image_size / math.sqrt(LEAST_AREA)
    return sides


def workers(config: Config) -> int:
    """Processes that decode photographs: `config.stream.num_workers`, or all cores but one.

    On fewer than four cores none: threads of the training process share them better.
    """
    chosen = config.stream.num_workers
    if chosen is not None:
        return chosen
    cores = sequential.available_cores()
    return cores - 1 if cores >= 4 else 0


def image_preprocessing(config: Config, train: ImageSource, log: Callable[[str], None]) -> Preprocessing:
    """The pre-processing of a run on photographs; "mean_image" looks at many of them, which `log` announces."""
    fields = config.stream
    view: dict[str, Any] = {
        "channel_order": fields.channel_order,
        "resize_size": fields.resize_size,
        "interpolation": fields.interpolation,
    }
    if fields.normalization == "channels":
        mean, std = (255 * np.array(each, np.float32)[None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    else:
        count = min(fields.mean_images, len(train))
        log(f"computing the mean image of {count} photographs")
        mean = sequential.mean_image(train, count, fields.resize_size, fields.image_size)
        std = np.ones((1, 1, 3), np.float32)
    if fields.channel_order == "bgr":
        mean, std = mean[..., ::-1], std[..., ::-1]
    return Preprocessing(jnp.asarray(mean), jnp.asarray(std), **view)


# The least and the greatest value of each number that a run can have.
_BOUNDS = {
    "seed": (0, 2**32 - 1),  # JAX's keys would make several seeds outside one and the same
    "model.batch_norm_momentum": (0, 1),
    "model.batch_norm_epsilon": (0, math.inf),
    "dataset.pad": (0, math.inf),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.factor": (0, math.inf),
    "optimizer.patience": (1, math.inf),
    "optimizer.constant_warmup": (0, math.inf),
    "optimizer.warmup_steps": (0, math.inf),
    "optimizer.warmup_start": (0, math.inf),
    "optimizer.trust_coefficient": (1e-9, math.inf),
    "stream.image_size": (1, math.inf),
    "stream.resize_size": (1, math.inf),
    "stream.mean_images": (1, math.inf),
    "stream.pca_lighting_std": (0, math.inf),
    "stream.max_corrupt_fraction": (0, 1),
    "stream.num_workers": (0, math.inf),
    "train.grad_accum_steps": (1, math.inf),
    "train.max_skipped_steps": (0, math.inf),
    "train.batch_size": (1, math.inf),
    "train.iterations": (1, math.inf),
    "train.log_every": (1, math.inf),
    "train.eval_every": (1, math.inf),
    "train.checkpoint_every": (1, math.inf),
    "train.keep_every": (1, math.inf),
    "train.keep_last": (1, math.inf),
    "eval.batch_size": (1, math.inf),
    "mesh.data": (1, math.inf),
    "mesh.fsdp": (1, math.inf),
}


def check(config: Config) -> None:
    """Refuses what no run can have, before anything is written or trained.

    Raises:
      InputError: names the field.
    """
    for field, (least, greatest) in _BOUNDS.items():
        value: Any = config
        for name in field.split("."):
            value = value[name]
        if value is not None and not least <= value <= greatest:
            wanted = f"from {least} to {greatest}" if math.isfinite(greatest) else f"at least {least}"
            raise InputError(f"config.{field} is {value}, but it must be {wanted}")
    boundaries = config.optimizer.boundaries
    if not all(each > 0 if type(each) is int else isinstance(each, float) and 0 < each < 1 for each in boundaries):
        raise InputError(
            f"config.optimizer.boundaries is {tuple(boundaries)!r}, but it must be iterations, such as (32000, 48000), "
            "or parts of the training, such as (0.5, 0.75)"
        )
    names = (*small.NAMES, *NAMES)
    if config.dataset.name not in names:
        raise InputError(f"unknown dataset.name {config.dataset.name!r}: it is one of {', '.join(names)}")
    if config.dataset.name in NAMES:
        _check_stream(config)
    check_bn_groups(config, config.train.batch_size)
    _check_constants(config)
    model(config, num_classes=10)
    try:
        optimizer(config, train_images=1)
    except InputError:
        raise
    except ValueError as error:  # Optax's own bounds, of a plateau's factor for instance
        raise InputError(f"config.optimizer: {error}") from error


def check_bn_groups(config: Config, images: int, devices: int = 1) -> None:
    """Refuses batch-norm groups that do not fit; see `models.layers.bn_groups`."""
    try:
        bn_groups(images, devices, config.model.bn_group_size)
    except ValueError as error:
        raise InputError(f"config.model.{error}") from error


def _check_constants(config: Config) -> None:
    """Refuses numbers with which nothing is learnt."""
    fields, momentum = config.optimizer, config.model.batch_norm_momentum
    if fields.learning_rate == 0:
        raise InputError(
            "config.optimizer.learning_rate is 0, with which no parameter changes: give it a value above 0"
        )
    if fields.factor == 0:
        raise InputError(
            "config.optimizer.factor is 0, with which the first drop of the rate ends all learning: give it one above 0"
        )
    if fields.momentum == 1:
        raise InputError(
            "config.optimizer.momentum is 1, with which no gradient is ever forgotten: give it a value below 1"
        )
    if momentum == 1:
        raise InputError(
            "config.model.batch_norm_momentum is 1, with which the running statistics that evaluation uses stay as "
            "they were at the start: give it a value below 1"
        )
    decayed = fields.learning_rate * fields.weight_decay
    if decayed >= 1 and fields.trust_coefficient is None:
        raise InputError(
            f"config.optimizer.learning_rate={fields.learning_rate:g} times weight_decay={fields.weight_decay:g} is "
            f"{decayed:g}: each iteration would take away all of the parameters: lower one of them"
        )


def check_learnable(config: Config, network: ResNet, image_shape: tuple[int, ...]) -> None:
    """Refuses what would be trained to the end and learn nothing.

    Args:
      config: of the run, which `check` has passed.
      network: of the config, for the data set's classes.
      image_shape: (height, width, channels) of what it is trained on.

    Raises:
      InputError: there is one class only, or a batch norm sees a single value of each channel, of which it makes zero.
    """
    if network.num_classes < 2:
        raise InputError(
            f"{config.dataset.name} has {network.num_classes} class, and there is nothing to tell apart: give it at "
            "least two"
        )
    images = network.bn_group_size or config.train.batch_size // config.train.grad_accum_steps
    if images > 1:
        return
    single = [path for path, sides in batch_norm_maps(network, image_shape).items() if sides == (1, 1)]
    if not single:
        return
    fields = config.train
    why = (
        "config.model.bn_group_size is 1"
        if network.bn_group_size
        else f"config.train.batch_size={fields.batch_size} has parts of 1 image with grad_accum_steps={fields.grad_accum_steps}"
        if fields.grad_accum_steps > 1
        else "config.train.batch_size is 1"
    )
    what = "a larger bn_group_size" if network.bn_group_size else "a larger batch_size or a smaller grad_accum_steps"
    larger = "config.stream.image_size" if config.dataset.name in NAMES else "images"
    raise InputError(
        f"the batch norm {'/'.join(single[0])} would see one value of each channel, and make zero of it: {why}, and of "
        f"images of {image_shape[0]} x {image_shape[1]} pixels its map is 1 x 1. Take {what}, or larger {larger}"
    )


def _check_stream(config: Config) -> None:
    _choice(config, "stream.crop", ("random_scale", "random_resized_crop"))
    _choice(config, "stream.interpolation", tuple(INTERPOLATIONS))
    _choice(config, "stream.normalization", ("mean_image", "channels"))
    _choice(config, "stream.channel_order", ("rgb", "bgr"))
    fields, scales = config.stream, tuple(config.stream.scales)
    whole = len(scales) == 2 and all(type(scale) is int for scale in scales)
    if fields.crop == "random_scale" and not (whole and fields.image_size <= scales[0] <= scales[1]):
        raise InputError(
            f"config.stream.scales is {scales}, but it must be two shorter sides, the lesser first, and neither below "
            f"config.stream.image_size={fields.image_size}"
        )
    if fields.resize_size < fields.image_size:
        raise InputError(
            f"config.stream.resize_size is {fields.resize_size}, but no window of config.stream.image_size={fields.image_size} "
            "can be cut from that"
        )
    if config.dataset.validation_images:
        raise InputError(
            "config.dataset.validation_images is for data sets without validation images of their own: "
            f"{config.dataset.name!r} has some"
        )
