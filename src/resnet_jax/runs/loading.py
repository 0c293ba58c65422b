"""The trained network of a run, loaded from its workdir."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from resnet_jax.configs.base import Config
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import Checkpoints, Restored
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.runs.tasks import TaskMaker, classification
from resnet_jax.training.state import TrainState, abstract_variables


@dataclass(frozen=True)
class LoadedRun:
    """A run with the network and the step of its newest whole checkpoint, on a mesh of all devices."""

    config: Config
    classifier: Classifier
    step: int
    mesh: Mesh


def load(workdir: str | os.PathLike[str], log: Callable[[str], None] = warn) -> Classifier:
    """The network of a run's newest whole checkpoint, on all devices; arguments and errors as of `load_run`."""
    return load_run(workdir, log).classifier


def load_run(directory: str | os.PathLike[str], log: Callable[[str], None] = warn) -> LoadedRun:
    """Loads a run with its newest whole checkpoint.

    Args:
      directory: the workdir that `loop.train` was given.
      log: is given a line about each damaged checkpoint.

    Raises:
      InputError: it is no workdir, or holds no whole checkpoint.
    """
    config, mesh = workdir.read_config(workdir.locate(directory)), make_mesh()

    def abstract(metadata: CheckpointMetadata) -> dict[str, Any]:
        return abstract_variables(build.model(config, len(metadata.class_names)), metadata.image_shape, mesh)

    step, variables, preprocessing, metadata = _restore(directory, abstract, log)
    model = build.model(config, len(metadata.class_names))
    classifier = Classifier(model, variables, preprocessing, metadata.class_names, metadata.image_shape)
    return LoadedRun(config, classifier, step, mesh)


def load_state(
    directory: str | os.PathLike[str], make_task: TaskMaker = classification, log: Callable[[str], None] = warn
) -> TrainState:
    """The state of a run's newest whole checkpoint, on all devices; see `load_run`, and `make_task` of `train`."""
    config, mesh = workdir.read_config(workdir.locate(directory)), make_mesh()

    def abstract(metadata: CheckpointMetadata) -> TrainState:
        return make_task(config, metadata, 1, mesh).abstract_state(metadata.image_shape, mesh)

    return _restore(directory, abstract, log).state


def _restore(directory: str | os.PathLike[str], abstract: Any, log: Callable[[str], None]) -> Restored:
    directory, restored = workdir.locate(directory), None
    if (directory / "checkpoints").is_dir():
        with Checkpoints(directory, write=False) as checkpoints:
            restored = checkpoints.restore(abstract, log)
    if restored is None:
        raise InputError(f"{directory} holds no checkpoint yet: resnet-jax train --workdir={directory} writes one")
    return restored
