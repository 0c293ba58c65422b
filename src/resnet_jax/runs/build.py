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
from resnet_jax.data.windows import LEAST_AREA
from resnet_jax.distributed.mesh import check_divides, make_mesh
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.layers import batch_norm_maps, bn_groups
from resnet_jax.training import optimizers

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


_CHOICES = {
    "model.family": models.FAMILIES,
    "model.shortcut": ("A", "B", "C"),
    "model.shortcut_padding": ("end", "both"),
    "model.bottleneck_stride": ("1x1", "3x3"),
    "model.stem_pool_padding": ("caffe", "torch"),
    "model.dtype": (*_DTYPES, "auto"),
    "optimizer.schedule": ("piecewise", "plateau"),
    "optimizer.decay": ("all", "kernels"),
    "optimizer.momentum_form": ("caffe", "torch"),
    "stream.crop": ("random_scale", "random_resized_crop"),
    "stream.interpolation": tuple(INTERPOLATIONS),
    "stream.normalization": ("mean_image", "channels"),
    "stream.channel_order": ("rgb", "bgr"),
}


def _check_choices(config: Config) -> None:
    for field, choices in _CHOICES.items():
        if (value := _value(config, field)) not in choices:
            raise InputError(f"config.{field} is {value!r}, but it must be one of {', '.join(choices)}")


def _value(config: Config, field: str) -> Any:
    section, _, name = field.rpartition(".")
    return config[section][name] if section else config[name]


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
    _check_choices(config)
    fields = config.model
    dtype = fields.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    try:
        return models.create(
            f"{fields.family}{fields.depth}",
            num_classes=num_classes,
            shortcut=None if fields.family.endswith("plain") else fields.shortcut,
            shortcut_padding=fields.shortcut_padding,
            bottleneck_stride=fields.bottleneck_stride,
            stem_pool_padding=fields.stem_pool_padding,
            momentum=fields.batch_norm_momentum,
            epsilon=fields.batch_norm_epsilon,
            bn_group_size=fields.bn_group_size,
            dtype=_DTYPES[dtype],
            remat=fields.remat,
            unroll=fields.unroll,
            zero_init_residual=fields.zero_init_residual,
        )
    except ValueError as error:
        raise InputError(f"config.model: {error}") from error


def schedule(config: Config) -> optax.Schedule:
    """The learning rate at each iteration, before the paper's warm-up and plateaus."""
    fields = config.optimizer
    if fields.schedule == "plateau":
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
        decay_everything=fields.decay == "all",
        warmup=warmup or None,
        plateau=plateau,
        trust_coefficient=fields.trust_coefficient,
        momentum_form=fields.momentum_form,
    )


def cropping(config: Config) -> stream.Cropping:
    """How the windows of images are drawn."""
    fields = config.stream
    return stream.Cropping(fields.crop, tuple(fields.scales), fields.image_size)


def resize_sizes(config: Config) -> dict[str, float]:
    """By field, the greatest shorter sides in pixels that training and evaluation resize a whole image to."""
    fields = config.stream
    sizes: dict[str, float] = {"config.stream.resize_size": fields.resize_size}
    if fields.crop == "random_scale":
        sizes["config.stream.scales"] = max(fields.scales)
    else:
        # Of a square image, whose least window becomes one of `image_size` pixels.
        sizes["config.stream.crop"] = fields.image_size / math.sqrt(LEAST_AREA)
    return sizes


def workers(config: Config) -> int:
    """Processes that decode images: `config.stream.num_workers`, or all cores but one."""
    if config.stream.num_workers is not None:
        return config.stream.num_workers
    cores = sequential.available_cores()
    # Threads of the training process share fewer than four cores better.
    return cores - 1 if cores >= 4 else 0


def image_preprocessing(config: Config, train: ImageSource, log: Callable[[str], None]) -> Preprocessing:
    """The pre-processing of streamed images; "mean_image" looks at many of them, which `log` announces."""
    fields = config.stream
    if fields.normalization == "channels":
        mean, std = (255 * np.array(each, np.float32)[None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    else:
        count = min(fields.mean_images, len(train))
        log(f"computing the mean image of {count} photographs")
        mean = sequential.mean_image(train, count, fields.resize_size, fields.image_size)
        std = np.ones((1, 1, 3), np.float32)
    if fields.channel_order == "bgr":
        mean, std = mean[..., ::-1], std[..., ::-1]
    return Preprocessing(
        jnp.asarray(mean), jnp.asarray(std), fields.channel_order, fields.resize_size, fields.interpolation
    )


# The least and the greatest value of each number that a run can have.
_BOUNDS = {
    (0, 2**32 - 1): "seed",  # JAX's keys would make several seeds outside one and the same
    (0, 1): "model.batch_norm_momentum optimizer.momentum train.ema_decay stream.max_corrupt_fraction",
    (1e-9, math.inf): "optimizer.trust_coefficient",
    (0, math.inf): """model.batch_norm_epsilon dataset.pad optimizer.learning_rate optimizer.weight_decay
        optimizer.factor optimizer.constant_warmup optimizer.warmup_steps optimizer.warmup_start
        stream.pca_lighting_std stream.num_workers train.max_skipped_steps""",
    (1, math.inf): """optimizer.patience stream.image_size stream.resize_size stream.mean_images train.batch_size
        train.grad_accum_steps train.iterations train.log_every train.eval_every train.checkpoint_every
        train.keep_every train.keep_last eval.batch_size mesh.data mesh.fsdp""",
}


def check(config: Config) -> None:
    """Refuses what no run can have, before anything is written or trained.

    Raises:
      InputError: names the field.
    """
    for (least, greatest), fields in _BOUNDS.items():
        for field in fields.split():
            value = _value(config, field)
            if value is not None and not least <= value <= greatest:
                wanted = f"from {least} to {greatest}" if math.isfinite(greatest) else f"at least {least}"
                raise InputError(f"config.{field} is {value}, but it must be {wanted}")
    _check_choices(config)
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
    fields = config.optimizer
    for field, value, effect in (
        ("optimizer.learning_rate", 0, "no parameter changes"),
        ("optimizer.factor", 0, "the first drop of the rate ends all learning"),
        ("optimizer.momentum", 1, "no gradient is ever forgotten"),
        ("train.ema_decay", 1, "the averages that are evaluated stay as they were at the start"),
        ("model.batch_norm_momentum", 1, "the running statistics that evaluation uses stay as they were at the start"),
    ):
        if _value(config, field) == value:
            wanted = "below" if value else "above"
            raise InputError(f"config.{field} is {value}, with which {effect}: give it a value {wanted} {value}")
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
    size, steps = config.train.batch_size, config.train.grad_accum_steps
    if (network.bn_group_size or size // steps) > 1:
        return
    single = [path for path, shape in batch_norm_maps(network, image_shape).items() if shape == (1, 1)]
    if not single:
        return
    if network.bn_group_size:
        why, what = "config.model.bn_group_size is 1", "a larger bn_group_size"
    else:
        cut = f"={size} has microbatches of 1 image with grad_accum_steps={steps}" if steps > 1 else " is 1"
        why, what = f"config.train.batch_size{cut}", "a larger batch_size or a smaller grad_accum_steps"
    larger = "config.stream.image_size" if config.dataset.name in NAMES else "images"
    raise InputError(
        f"the batch norm {'/'.join(single[0])} would see one value of each channel, and make zero of it: {why}, and of "
        f"images of {image_shape[0]} x {image_shape[1]} pixels its map is 1 x 1. Take {what}, or larger {larger}"
    )


def _check_stream(config: Config) -> None:
    fields, scales = config.stream, tuple(config.stream.scales)
    whole = len(scales) == 2 and all(type(scale) is int for scale in scales)
    if fields.crop == "random_scale" and not (whole and fields.image_size <= scales[0] <= scales[1]):
        raise InputError(
            f"config.stream.scales is {scales}, but it must be two shorter sides, the lesser first, and neither below "
            f"config.stream.image_size={fields.image_size}"
        )
    if fields.resize_size < fields.image_size:
        raise InputError(
            f"config.stream.resize_size is {fields.resize_size}, but no window of "
            f"config.stream.image_size={fields.image_size} can be cut from that"
        )
    if config.dataset.validation_images:
        raise InputError(
            "config.dataset.validation_images is for data sets without validation images of their own: "
            f"{config.dataset.name!r} has some"
        )
