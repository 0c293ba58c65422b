"""What no run can have is refused before anything is written or trained."""

import math
from typing import Any

from resnet_jax import models
from resnet_jax.configs.base import Config
from resnet_jax.configs.fields import OF_WEIGHTS
from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.data.images import NAMES, check_dataset
from resnet_jax.errors import InputError, did_you_mean
from resnet_jax.models import ResNet
from resnet_jax.models.layers import batch_norm_maps
from resnet_jax.runs import build, length

_CHOICES = {
    "init.head": ("zero", "normal", "keep"),
    "model.family": models.FAMILIES,
    "model.shortcut": ("A", "B", "C"),
    "model.shortcut_padding": ("end", "both"),
    "model.bottleneck_stride": ("1x1", "3x3"),
    "model.stem_pool_padding": ("caffe", "torch"),
    "model.padding": ("zeros", "wrap"),
    "model.block_layers": (1, 2, 3),
    "model.gates": ("coupled", "uncoupled"),
    "model.dtype": (*build.DTYPES, "auto"),
    "optimizer.schedule": ("piecewise", "plateau"),
    "optimizer.decay": ("all", "kernels"),
    "optimizer.momentum_form": ("caffe", "torch"),
    "stream.crop": ("random_scale", "random_resized_crop"),
    "stream.interpolation": tuple(INTERPOLATIONS),
    "stream.normalization": ("mean_image", "channels"),
    "stream.channel_order": ("rgb", "bgr"),
}


# The least and the greatest value of each number that a run can have.
_BOUNDS = {
    (0, 2**32 - 1): "seed",  # JAX's keys would make several seeds outside one and the same
    (0, 1): "model.batch_norm_momentum optimizer.momentum train.ema_decay stream.max_corrupt_fraction",
    (1e-9, math.inf): "optimizer.trust_coefficient",
    (0, math.inf): """model.batch_norm_epsilon dataset.pad optimizer.learning_rate optimizer.weight_decay
        optimizer.factor optimizer.constant_warmup optimizer.warmup_steps optimizer.warmup_start
        stream.pca_lighting_std stream.num_workers train.max_skipped_steps""",
    (-100, 100): "model.gate_bias",  # in float32 the sigmoid is 1 from 17 on, and 0 from -104
    (1e-6, 1e6): "train.epochs",
    (1, math.inf): """optimizer.patience stream.image_size stream.resize_size stream.mean_images train.batch_size
        train.grad_accum_steps train.iterations train.log_every train.eval_every train.checkpoint_every
        train.keep_every train.keep_last eval.batch_size mesh.data mesh.fsdp""",
}


def check(config: Config) -> None:
    """Refuses what no run can have, before anything is written or trained.

    Fields that are None, for what the weights of `config.init` are of, are checked once they are resolved, see
    `starting.resolved`.

    Raises:
      InputError: names the field.
    """
    for (least, greatest), fields in _BOUNDS.items():
        for field in fields.split():
            value = _value(config, field)
            if value is not None and (not least <= value <= greatest or value == math.inf):
                wanted = f"from {least} to {greatest}" if math.isfinite(greatest) else f"at least {least}"
                wanted = "finite" if value == math.inf == greatest else wanted
                wanted = "above 0" if value <= 0 < least < 1 else wanted
                raise InputError(f"config.{field} is {value}, but it must be {wanted}")
    _check_choices(config)
    boundaries = config.optimizer.boundaries
    if not all(each > 0 if type(each) is int else isinstance(each, float) and 0 < each < 1 for each in boundaries):
        raise InputError(
            f"config.optimizer.boundaries is {tuple(boundaries)!r}, but it must be iterations, such as (32000, 48000), "
            "or parts of the training, such as (0.5, 0.75)"
        )
    check_dataset(config.dataset.name, what="dataset.name")
    _check_constants(config)
    if config.train.epochs is None:  # else the data say how long it is
        length.check(config)
    build.check_bn_groups(config, config.train.batch_size)
    missing = [name for name in OF_WEIGHTS if _value(config, name) is None]
    if missing and config.init.weights is None:
        raise InputError(
            f"config.init.weights is none, and so is config.{missing[0]}, which the weights would say: give "
            f"config.init.weights, the workdir of a run or a file of weights, or a value for config.{missing[0]}"
        )
    if config.init.freeze and config.init.weights is None:
        raise InputError(
            f"config.init.freeze is {config.init.freeze!r}, but there are no config.init.weights, and what is drawn "
            "must be trained: give weights to begin with, or none for config.init.freeze"
        )
    if missing:
        return
    if config.dataset.name in NAMES:
        _check_stream(config)
    _check_parts(config)
    if config.model.dtype == "auto":
        # Which dtype that is depends on the accelerator, and to ask would take it, as from the points of a sweep.
        config = config.copy_and_resolve_references()
        config.model.dtype = "float32"
    build.model(config, num_classes=10)
    try:
        build.optimizer(config, train_images=1)
    except InputError:
        raise
    except ValueError as error:  # Optax's own bounds, of a plateau's factor for instance
        raise InputError(f"config.optimizer: {error}") from error


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


def _check_choices(config: Config) -> None:
    for field, choices in _CHOICES.items():
        value = _value(config, field)
        if value not in choices and not (value is None and field in OF_WEIGHTS):
            choices = tuple(map(str, choices))
            hint = did_you_mean(str(value), choices)
            raise InputError(
                f"config.{field} is {value!r}, but it must be one of {', '.join(choices)}" + (hint and f": {hint[:-1]}")
            )


def _value(config: Config, field: str) -> Any:
    section, _, name = field.rpartition(".")
    return config[section][name] if section else config[name]


def _check_parts(config: Config) -> None:
    """Refuses parts that the network lacks, and a network of which nothing is trained."""
    names, frozen, factors = build.parts(config), config.init.freeze, tuple(config.optimizer.rate_factors)
    network, choices = f"{config.model.family}{config.model.depth}", (*names[:-1], "backbone")
    if frozen not in (None, *choices):
        raise InputError(
            f"config.init.freeze is {frozen!r}, but of {network} it must be one of {', '.join(choices)}, or none"
        )
    if not factors:
        return
    if len(factors) != len(names) or min(factors) < 0 or not all(map(math.isfinite, factors)):
        raise InputError(
            f"config.optimizer.rate_factors is {factors}, but of {network} it must be {len(names)} numbers, of "
            f"{', '.join(names)}, and none of them negative"
        )
    trained = build.trained_parts(config)
    if not any(factor for name, factor in zip(names, factors, strict=True) if name in trained):
        raise InputError(
            f"config.optimizer.rate_factors is {factors}, with which no parameter of {', '.join(trained)} changes"
            f"{f', and all else is frozen (config.init.freeze={frozen})' if frozen else ''}: give a value above 0"
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
    maps = batch_norm_maps(network, image_shape)
    single = [path for path in maps if maps[path] == (1, 1) and path[0] not in network.frozen_statistics]
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
