"""A trained network, loaded from the workdir of its run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from resnet_jax import build, sharding, workdir
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import Config
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError, complain
from resnet_jax.models import ResNet
from resnet_jax.training.state import abstract_state


@dataclass(frozen=True)
class Trained:
    """A network with its newest whole checkpoint, on every device of the mesh.

    Attributes:
      config, model: of the run.
      step: of the checkpoint.
      variables: parameters and running statistics.
      preprocessing, card: see `checkpoint.Checkpoints`.
      mesh: all devices that there are, whatever the run had.
    """

    config: Config
    model: ResNet
    step: int
    variables: Any
    preprocessing: Preprocessing
    card: Card
    mesh: Mesh


def load_trained(directory: str | os.PathLike[str], say: Callable[[str], None] = complain) -> Trained:
    """Loads the newest whole checkpoint of a run.

    Args:
      directory: the workdir that `training.loop.train` was given.
      say: is given a line about each damaged checkpoint.

    Raises:
      InputError: it is no workdir, or holds no whole checkpoint.
    """
    directory = workdir.locate(directory)
    config = workdir.read_config(directory)
    mesh = sharding.make_mesh()

    def abstract(card: Card):
        model = build.model(config, len(card.class_names))
        # The state of the optimiser, whatever it is, is not loaded.
        return abstract_state(model, build.optimizer(config, train_images=1), card.image_shape, mesh)

    if not (directory / "checkpoints").is_dir():
        raise InputError(f"{directory} holds no checkpoint yet: resnet-jax train --workdir={directory} writes one")
    with Checkpoints(directory, write=False) as checkpoints:
        trained = checkpoints.restore_network(abstract, say)
    if trained is None:
        raise InputError(f"{directory} holds no checkpoint yet: resnet-jax train --workdir={directory} writes one")
    model = build.model(config, len(trained.card.class_names))
    return Trained(config, model, trained.step, trained.variables, trained.preprocessing, trained.card, mesh)
