"""From a config to the objects that it describes. Models, data and steps know no config; this file reads it for
them.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax import models
from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.configs.fields import OF_WEIGHTS, as_text, flat
from resnet_jax.data import sequential, stream
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.images import NAMES
from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_jax.data.windows import LEAST_AREA
from resnet_jax.distributed.machine import available_cores
from resnet_jax.distributed.mesh import check_divides, make_mesh
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.layers import bn_groups
from resnet_jax.runs import length
from resnet_jax.training import optimizers

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


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
    fields = config.model
    dtype = fields.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    own = {}
    if fields.family.endswith("highway"):
        own["gates"] = models.Gates(carry="coupled" if fields.gates == "coupled" else "learned", bias=fields.gate_bias)
    elif fields.gates != "coupled" or fields.gate_bias is not None:
        name = "gate_bias" if fields.gates == "coupled" else "gates"
        raise InputError(
            f"config.model.{name} is {fields[name]!r}, but a {fields.family} has no gates: take the family "
            f"cifar_highway, or leave it at {'none' if name == 'gate_bias' else 'coupled'}"
        )
    frozen = {name: config.init[name] for name in ("freeze", "live_statistics")} if config.init.freeze else {}
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
            dtype=DTYPES[dtype],
            remat=fields.remat,
            unroll=fields.unroll,
            zero_init_residual=fields.zero_init_residual,
            padding=fields.padding,
            block_layers=fields.block_layers,
            **own,
            **frozen,
        )
    except ValueError as error:
        raise InputError(f"config.model: {error}") from error


def without_effect(config: Config) -> str | None:
    """A line about the fields that are set, and that mean nothing to the run."""
    network, fields, given = model(config, num_classes=2), config.model, flat(config)
    freeze, weights, name = config.init.freeze, config.init.weights is not None, config.dataset.name
    streamed = name in NAMES
    # What packaged configs hold where their network has no such thing.
    usual = flat(base.get_config()) | {"model.shortcut": "A" if network.stem == "cifar" else "B"}
    if weights:  # or the config that is for them says these, and nobody has set them
        usual |= {field: given[field] for field in given if field in OF_WEIGHTS or field.startswith("stream.")}
    idle = {
        f"on {fields.family}{fields.depth}": {
            "model.shortcut": network.shortcut is None,
            "model.shortcut_padding": network.shortcut != "A",
            "model.bottleneck_stride": not network.bottleneck,
            "model.stem_pool_padding": network.stem != "imagenet",
        },
        f"on {name}": {field: not streamed for field in given if field.startswith("stream.")}
        | {"dataset.data_dir": name == "digits", "dataset.pad": streamed},
        "without config.init.weights": {"init.head": not weights},
        "without config.init.freeze": {"init.live_statistics": freeze is None},
        "beside config.init.weights": {"model.zero_init_residual": weights, "model.gate_bias": weights},
        "without config.optimizer.schedule=plateau": {"optimizer.patience": config.optimizer.schedule != "plateau"},
        "without config.optimizer.warmup_steps": {"optimizer.warmup_start": not config.optimizer.warmup_steps},
    }
    lines = []
    for where, which in idle.items():
        names = [field for field in which if which[field] and given[field] != usual[field]]
        said = [f"config.{field}={as_text(given[field])}" for field in names]
        if said:
            lines.append(f"{', '.join(said)} {'has' if len(said) == 1 else 'have'} no effect {where}")
    factors = dict(zip(parts(config), config.optimizer.rate_factors, strict=False))  # () is 1 for all
    still = [part for part, factor in factors.items() if factor not in (0, 1) and part not in trained_parts(config)]
    if still:
        lines.append(
            f"config.optimizer.rate_factors has no effect on {', '.join(still)} with config.init.freeze={freeze}"
        )
    return "; ".join(lines) or None


def schedule(config: Config) -> optax.Schedule:
    """The learning rate at each iteration, before the paper's warm-up and plateaus."""
    fields = config.optimizer
    if fields.schedule == "plateau":
        rates = optax.constant_schedule(fields.learning_rate)
    else:
        rates = optimizers.piecewise(fields.learning_rate, length.length(config).drops, fields.factor)
    warmup = length.length(config).warmup
    return optimizers.ramped(rates, warmup, fields.warmup_start) if warmup else rates


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
    factors = None
    if fields.rate_factors:
        # The optimiser has no parameters of what is frozen.
        names = trained_parts(config)
        factors = dict(zip(names, map(float, fields.rate_factors[-len(names) :]), strict=True))
    return optimizers.sgd(
        schedule(config),
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        decay_everything=fields.decay == "all",
        warmup=warmup or None,
        plateau=plateau,
        trust_coefficient=fields.trust_coefficient,
        momentum_form=fields.momentum_form,
        rate_factors=factors,
    )


def parts(config: Config) -> tuple[str, ...]:
    """The parts of the network from the first to the last, by which it is frozen and has rates: "stem", "stage1", …,
    and "fc", the classifier.
    """
    return ("stem", *(f"stage{i + 1}" for i in range(3 if config.model.family.startswith("cifar") else 4)), "fc")


def trained_parts(config: Config) -> tuple[str, ...]:
    """Those of `parts` that come after `config.init.freeze`; the classifier is always one."""
    names, frozen = parts(config), config.init.freeze
    return names if frozen is None else names[:-1][(*names[:-1], "backbone").index(frozen) + 1 :] + names[-1:]


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
    cores = available_cores()
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


def check_bn_groups(config: Config, images: int, devices: int = 1) -> None:
    """Refuses batch-norm groups that do not fit; see `models.layers.bn_groups`."""
    try:
        bn_groups(images, devices, config.model.bn_group_size)
    except ValueError as error:
        raise InputError(f"config.model.{error}") from error
