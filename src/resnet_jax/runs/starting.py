"""How a run begins with weights: which network they are of, what is shown to it, and which of it is new.

A run needs them once: config.json holds what they settle, and a checkpoint all that was made of them.
"""

import dataclasses
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from resnet_jax import models
from resnet_jax.configs.base import Config
from resnet_jax.configs.fields import OF_WEIGHTS, flat
from resnet_jax.data.images import NAMES
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed import agreement
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier, transfer
from resnet_jax.files import expanded
from resnet_jax.interop.classifiers import load_torch
from resnet_jax.interop.files import SUFFIXES
from resnet_jax.interop.torch_weights import conventions
from resnet_jax.models.resnet import part_of
from resnet_jax.models.zoo import family_and_depth
from resnet_jax.runs import build, checks, loading, workdir
from resnet_jax.runs.metadata import CheckpointMetadata


def read(
    path: str | os.PathLike[str], log: Callable[[str], None] = warn, name: str = "config.init.weights"
) -> Classifier:
    """The network of the weights at a path, in the host's memory; of several processes all call this alike.

    Args:
      path: the workdir of a run, whose newest checkpoint is taken; or a file, see `interop.load_torch`.
      log: is given lines about what was read.
      name: of what the path was given for.

    Raises:
      InputError: nothing there can be used, or the processes read different weights.
    """
    path = expanded(path, name, remote=True)

    def of_this_host() -> Classifier | None:
        """That of a file, or None for a run, whose checkpoint the processes read together."""
        if not path.exists():
            raise InputError(f"{name} is {path}, which does not exist: give the workdir of a run or a file of weights")
        if not path.is_dir():
            return load_torch(path, log=log)
        check_is_run(path)
        loading.check_begun(path)
        return None

    classifier, advice = agreement.together(of_this_host), f"use the same ones for {name} on every host"
    agreement.check_same("weights", {"their place": "a workdir" if classifier is None else "a file"}, advice)
    if classifier is None:
        run = loading.load_run(path, log)
        classifier, made = run.classifier, f"the checkpoint of iteration {run.step}"
    else:
        made = "these weights"
    classifier = jax.device_get(classifier)
    crc = 0
    for leaf in jax.tree.leaves(classifier):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    agreement.check_same("weights", {"their checksum": crc}, advice)
    network, size = "{}{}".format(*family_and_depth(_resnet(classifier))), " x ".join(map(str, classifier.image_shape))
    log(f"{path}: {made}, of a {network} for images of {size} and {len(classifier.class_names)} classes")
    return classifier


def check_is_run(directory: Path) -> None:
    """Refuses a folder that holds weights and no checkpoints, as the hub of timm's weights makes it."""
    files = [path for path in sorted(directory.glob("*")) if path.name.endswith(SUFFIXES)]
    if files and not (directory / "checkpoints").is_dir():
        raise InputError(f"{directory} is no run, and holds weights: give the file itself, {files[0]}")


def fields_of(classifier: Classifier) -> dict[str, Any]:
    """The values of `OF_WEIGHTS` with which a config describes a classifier."""
    model, preprocessing = _resnet(classifier), classifier.preprocessing
    family, depth = family_and_depth(model)
    values = (
        *(family, depth, model.shortcut or "A", model.shortcut_padding, model.bottleneck_stride),
        *(model.stem_pool_padding, model.epsilon, model.padding, model.block_layers),
        "uncoupled" if model.gates is not None and model.gates.carry == "learned" else "coupled",
        *(classifier.image_shape[0], preprocessing.resized_to(classifier.image_shape), preprocessing.interpolation),
        *("channels" if preprocessing.mean.shape[:2] == (1, 1) else "mean_image", preprocessing.channel_order),
    )
    return dict(zip(OF_WEIGHTS, values, strict=True))


def resolved(config: Config, weights: Classifier) -> Config:
    """The config of a run that begins with weights: its fields that are None are those of the weights.

    Raises:
      InputError: a field of `config.model` that is not None says another network than the weights are of, or one of
        `config.stream` other pixels.
    """
    given, theirs = flat(config), fields_of(weights)
    checked = {"family", "depth", "padding", "block_layers", "gates", *conventions(_resnet(weights))}
    checked |= set() if theirs["model.family"].endswith("plain") else {"shortcut"}
    # Data sets that lie on the devices are not streamed.
    checked |= {"normalization", "channel_order"} if config.dataset.name in NAMES else set()
    for name in OF_WEIGHTS:
        if name.split(".")[1] in checked and given[name] not in (None, theirs[name]):
            raise InputError(
                f"config.{name} is {given[name]!r}, but it is {theirs[name]!r} of the weights {config.init.weights}: "
                f"give none for it, or other weights"
            )
    size, resize = given["stream.image_size"], given["stream.resize_size"]
    if size is not None and resize is None:
        theirs["stream.resize_size"] = size * theirs["stream.resize_size"] // theirs["stream.image_size"]
    return _filled(config, theirs)


def as_begun(config: Config, directory: Path) -> Config:
    """The config of a run that goes on: its fields that are None are those that the workdir's config.json holds."""
    return config if config.init.weights is None else _filled(config, flat(workdir.read_config(directory)))


def _filled(config: Config, values: Mapping[str, Any]) -> Config:
    config, given = config.copy_and_resolve_references(), flat(config)
    config.update_from_flattened_dict({name: values[name] for name in OF_WEIGHTS if given[name] is None})
    checks.check(config)
    return config


def preprocessing(config: Config, weights: Classifier) -> Preprocessing:
    """That of the weights, as a run of the resolved config uses it: what it looks at whole is not resized."""
    fields, theirs = config.stream, weights.preprocessing
    if config.dataset.name not in NAMES:
        return dataclasses.replace(theirs, resize_size=None)
    return dataclasses.replace(theirs, resize_size=fields.resize_size, interpolation=fields.interpolation)


def begin(
    config: Config, weights: Classifier, metadata: CheckpointMetadata, model: nn.Module, log: Callable[[str], None]
) -> Classifier:
    """What a run trains on from: the weights, with a head for its classes.

    The head stays where the classes are those of the weights, or `config.init.head` is "keep"; else it is a new one.

    Args:
      config: of the run, resolved.
      weights: as they were read.
      metadata: of the data.
      model: that is trained.
      log: is given lines about what is new and what is frozen.

    Raises:
      InputError: the weights do not fit the images, the classes or the model.
    """
    given, names, shape = config.init.weights, metadata.class_names, metadata.image_shape
    mean = weights.preprocessing.mean.shape
    theirs, ours = (" x ".join(map(str, each)) for each in (weights.image_shape, shape))
    if weights.image_shape[2] != shape[2]:
        raise InputError(
            f"the weights {given} are for images of {theirs}, and those of {config.dataset.name!r} are {ours}: their "
            "numbers of channels differ"
        )
    if config.dataset.name not in NAMES and mean[:2] not in ((1, 1), shape[:2]):
        raise InputError(
            f"the weights {given} subtract a mean of each pixel of images of {theirs}, and those of "
            f"{config.dataset.name!r} are {ours}: use weights with a mean of each channel"
        )
    count, same = len(weights.class_names), weights.class_names == names
    if config.init.head == "keep" and count != len(names):
        raise InputError(
            f"config.init.head is 'keep', but the weights {given} have {count} classes and {config.dataset.name!r} "
            f"has {len(names)}: give 'zero' or 'normal' for a new head"
        )
    if config.init.head == "keep" or (same and names != tuple(f"class {i}" for i in range(count))):
        log(f"the head of the weights is kept for {len(names)} classes")
        start = weights.replace(class_names=names)
    else:
        log(f"the head is new ({config.init.head}), for {len(names)} classes: {_listed(names)}")
        start = transfer(weights, names, seed=config.seed, head=config.init.head)
    if jax.tree.map(np.shape, start.variables) != jax.tree.map(np.shape, models.abstract_variables(model, shape)):
        raise InputError(f"the weights {given} do not fit the {type(model).__name__} that is trained")
    if config.init.freeze is not None:
        log(_frozen(config, start))
    return start.replace(model=model)


def _frozen(config: Config, start: Classifier) -> str:
    trained, sizes = build.trained_parts(config), dict.fromkeys(build.parts(config), 0)
    for name, each in start.variables["params"].items():
        sizes[part_of(name)] += sum(map(np.size, jax.tree.leaves(each)))
    statistics = "the batches'" if config.init.live_statistics else "the weights'"
    return (
        f"frozen: {', '.join(part for part in sizes if part not in trained)}, with {statistics} batch-norm statistics; "
        f"trained: {', '.join(trained)}, {sum(sizes[part] for part in trained):,} of {sum(sizes.values()):,} parameters"
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join((*names[:5], *(["…"] if len(names) > 5 else [])))


def _resnet(classifier: Classifier) -> models.ResNet:
    model: Any = classifier.model
    return model
