"""From a config to the objects that it describes. Models, data and steps know no config; this file reads it for
them.
"""

import math
from typing import Any

import jax.numpy as jnp
import optax

from resnet_jax import models
from resnet_jax.configs import Config
from resnet_jax.data.pipeline import Augmentation
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.training import schedules

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _choice(config: Config, field: str, choices: tuple[str, ...]) -> str:
    value: Any = config
    for name in field.split("."):
        value = value[name]
    if value not in choices:
        raise InputError(f"config.{field} is {value!r}, but it must be one of {', '.join(choices)}")
    return value


def model(config: Config, num_classes: int) -> ResNet:
    """The network of `config.model`.

    Raises:
      InputError: an unknown family, depth or choice.
    """
    family = _choice(config, "model.family", models.FAMILIES)
    shortcut = _choice(config, "model.shortcut", ("A", "B", "C"))
    fields = config.model
    choices = {
        "zero_channels": _choice(config, "model.zero_channels", ("end", "both")),
        "stride_in": _choice(config, "model.stride_in", ("1x1", "3x3")),
        "pool_alignment": _choice(config, "model.pool_alignment", ("caffe", "torch")),
        "dtype": _DTYPES[_choice(config, "model.dtype", tuple(_DTYPES))],
    }
    try:
        return models.create(
            f"{family}{fields.depth}",
            num_classes=num_classes,
            shortcut=None if family.endswith("plain") else shortcut,
            momentum=fields.batch_norm_momentum,
            epsilon=fields.batch_norm_epsilon,
            group_size=fields.group_size,
            unroll=fields.unroll,
            **choices,
        )
    except ValueError as error:
        raise InputError(f"config.model: {error}") from error


def schedule(config: Config) -> optax.Schedule:
    """The learning rate at each iteration, before warm-up and plateaus."""
    fields = config.optimizer
    if _choice(config, "optimizer.schedule", ("piecewise", "plateau")) == "plateau":
        return optax.constant_schedule(fields.learning_rate)
    iterations = config.train.iterations
    boundaries = fields.boundaries
    if boundaries is None:
        boundaries = (iterations // 2, iterations * 3 // 4)
    return schedules.piecewise(fields.learning_rate, tuple(boundaries), fields.factor)


def optimizer(config: Config, train_images: int) -> optax.GradientTransformationExtraArgs:
    """The optimiser of `config.optimizer`; the training set's size sets the length of a plateau's epochs."""
    fields = config.optimizer
    warmup = fields.warmup_learning_rate
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
    return schedules.sgd(
        schedule(config),
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        decay_everything=_choice(config, "optimizer.decay", ("all", "kernels")) == "all",
        warmup=warmup or None,
        plateau=plateau,
    )


def augmentation(config: Config) -> Augmentation:
    """The augmentation of `config.dataset`."""
    return Augmentation(config.dataset.pad, config.dataset.mirror)


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
    "optimizer.warmup_learning_rate": (0, math.inf),
    "train.batch_size": (1, math.inf),
    "train.iterations": (1, math.inf),
    "train.log_every": (1, math.inf),
    "train.eval_every": (1, math.inf),
    "train.checkpoint_every": (1, math.inf),
    "eval.batch_size": (1, math.inf),
    "mesh.data": (1, math.inf),
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
    if boundaries is not None and not all(type(boundary) is int and boundary > 0 for boundary in boundaries):
        raise InputError(
            f"config.optimizer.boundaries is {tuple(boundaries)!r}, but it must be iterations, such as (32000, 48000)"
        )
    group = config.model.group_size
    if group is not None and (group < 1 or config.train.batch_size % group):
        raise InputError(
            f"config.model.group_size is {group}, which does not divide "
            f"config.train.batch_size={config.train.batch_size}"
        )
    model(config, num_classes=10)
    try:
        optimizer(config, train_images=1)
    except ValueError as error:  # Optax's own bounds, of a plateau's factor for instance
        raise InputError(f"config.optimizer: {error}") from error
