"""resnet-jax convert: from the weights of another library to the workdir of a run, and back."""

import os
from collections.abc import Callable
from typing import Any

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.distributed.mesh import make_mesh, put_everywhere
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.files import expanded
from resnet_jax.interop.classifiers import read_torch, save_torch
from resnet_jax.interop.files import SUFFIXES
from resnet_jax.models.zoo import family_and_depth
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.runs.loading import load_run
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.training.state import create_state


def from_torch(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    log: Callable[[str], None] = warn,
    *,
    prefix: str | None = None,
    **stated: Any,
) -> str:
    """Makes a workdir, like that of a run, from a file of PyTorch weights; returns the name of the network.

    Args:
      source, log, prefix, **stated: see `classifiers.load_torch`.
      directory: a folder that does not exist or is empty.

    Raises:
      InputError: as `load_torch`, or the folder holds something.
    """
    directory = workdir.locate(directory, "the destination")
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty: give a folder that does not exist yet")
    classifier, dataset = read_torch(source, stated, prefix, log)
    config = _config(classifier, dataset)
    mesh = make_mesh()
    state = create_state(classifier, build.optimizer(config, train_images=1), mesh=mesh)
    preprocessing = put_everywhere(mesh, classifier.preprocessing)
    metadata = CheckpointMetadata(classifier.class_names, classifier.image_shape, data_crc=0)
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, metadata, step=0)
    return f"{config.model.family}{config.model.depth}"


def _config(classifier: Classifier, dataset: str) -> Config:
    config, preprocessing = base.get_config(), classifier.preprocessing
    model: Any = classifier.model
    family, depth = family_and_depth(model)
    config.model.update(
        family=family,
        depth=depth,
        shortcut=model.shortcut or "A",
        shortcut_padding=model.shortcut_padding,
        bottleneck_stride=model.bottleneck_stride,
        stem_pool_padding=model.stem_pool_padding,
        batch_norm_epsilon=model.epsilon,
    )
    config.stream.update(
        crop="random_resized_crop",
        normalization="channels" if preprocessing.mean.shape[:2] == (1, 1) else "mean_image",
        pca_lighting_std=0.0,
        channel_order=preprocessing.channel_order,
        interpolation=preprocessing.interpolation,
        image_size=classifier.image_shape[0],
        resize_size=preprocessing.resized_to(classifier.image_shape),
    )
    config.dataset.name = dataset
    return config


def to_torch(
    directory: str | os.PathLike[str], destination: str | os.PathLike[str], log: Callable[[str], None] = warn
) -> None:
    """Writes the newest checkpoint of a workdir in torchvision's layout (akamaster's for CIFAR networks).

    The other arguments are those of `classifiers.save_torch`.

    Raises:
      InputError: no checkpoint, or a file that cannot be written.
    """
    directory = expanded(directory, "the source")
    files = [path for path in sorted(directory.glob("*")) if path.name.endswith(SUFFIXES)]
    if files and not (directory / "checkpoints").is_dir():
        raise InputError(f"{directory} is no run, and holds weights: give the file itself, {files[0]}")
    run = load_run(directory)
    save_torch(run.classifier, destination, dataset=run.config.dataset.name, log=log)
