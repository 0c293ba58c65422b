"""The trained network of a run, loaded from its workdir."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from jax.sharding import Mesh

from resnet_jax.configs import Config
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import CheckpointMetadata, Checkpoints
from resnet_jax.training.state import abstract_state


@dataclass(frozen=True)
class LoadedRun:
    """A run with its newest whole checkpoint.

    Attributes:
      config: of the run.
      classifier: the network, on every device of the mesh.
      step: of the checkpoint.
      mesh: all devices that there are, whatever the run had.
    """

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
      directory: the workdir that `training.loop.train` was given.
      log: is given a line about each damaged checkpoint.

    Raises:
      InputError: it is no workdir, or holds no whole checkpoint.
    """
    directory = workdir.locate(directory)
    config = workdir.read_config(directory)
    mesh = make_mesh()

    def abstract(metadata: CheckpointMetadata):
        model = build.model(config, len(metadata.class_names))
        # The state of the optimiser, whatever it is, is not loaded.
        return abstract_state(model, build.optimizer(config, train_images=1), metadata.image_shape, mesh)

    restored = None
    if (directory / "checkpoints").is_dir():
        with Checkpoints(directory, write=False) as checkpoints:
            restored = checkpoints.restore_network(abstract, log)
    if restored is None:
        raise InputError(f"{directory} holds no checkpoint yet: resnet-jax train --workdir={directory} writes one")
    names, shape = restored.metadata.class_names, restored.metadata.image_shape
    model = build.model(config, len(names))
    classifier = Classifier(model, restored.variables, restored.preprocessing, names, shape)
    return LoadedRun(config, classifier, restored.step, mesh)
