"""resnet-jax convert: from the weights of another library to the workdir of a run, and back."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.distributed.mesh import make_mesh, put_everywhere
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.files import expanded
from resnet_jax.interop.classifiers import read_torch, save_torch
from resnet_jax.runs import build, starting, workdir
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
    directory = new_workdir(directory, "the destination")
    classifier, dataset = read_torch(source, stated, prefix, log)
    config = write_workdir(classifier, directory, dataset)
    return f"{config.model.family}{config.model.depth}"


def new_workdir(directory: str | os.PathLike[str], name: str = "--workdir") -> Path:
    """The folder of a workdir that is to be written; an InputError where it holds something."""
    directory = workdir.locate(directory, name)
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty: give a folder that does not exist yet")
    return directory


def write_workdir(
    classifier: Classifier, directory: Path, dataset: str, data_dir: str | os.PathLike[str] | None = None
) -> Config:
    """Makes a workdir, like that of a run, of a classifier and what its config says of its data; returns the config."""
    config, mesh = base.get_config(), make_mesh()
    config.update_from_flattened_dict(starting.fields_of(classifier))
    config.stream.update(crop="random_resized_crop", pca_lighting_std=0.0)
    config.dataset.update(name=dataset, data_dir=None if data_dir is None else os.fspath(data_dir))
    state = create_state(classifier, build.optimizer(config, train_images=1), mesh=mesh)
    preprocessing = put_everywhere(mesh, classifier.preprocessing)
    metadata = CheckpointMetadata(classifier.class_names, classifier.image_shape, data_crc=0)
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.check_lock()
        checkpoints.save(state, preprocessing, metadata, step=0)
    return config


def to_torch(
    directory: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    log: Callable[[str], None] = warn,
    *,
    checkpoint: str | int = "last",
) -> None:
    """Writes a checkpoint of a workdir, see `load_run`, in torchvision's layout (akamaster's for CIFAR networks).

    The other arguments are those of `classifiers.save_torch`.

    Raises:
      InputError: no checkpoint, or a file that cannot be written.
    """
    directory = expanded(directory, "the source", remote=True)
    starting.check_is_run(directory)
    run = load_run(directory, checkpoint=checkpoint)
    save_torch(run.classifier, destination, dataset=run.config.dataset.name, log=log)
