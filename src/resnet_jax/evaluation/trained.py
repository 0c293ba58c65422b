"""A trained network, loaded from the workdir of its run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from resnet_jax import build, sharding, workdir
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import Config
from resnet_jax.data.augment import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.training.state import TrainState, abstract_checkpoint


@dataclass(frozen=True)
class Trained:
    """A network with its newest whole checkpoint, on every device of the mesh."""

    config: Config
    model: ResNet
    state: TrainState
    preprocessing: Preprocessing
    card: Card
    mesh: Mesh


def load_trained(directory: Path, say: Callable[[str], None] = print) -> Trained:
    """Loads the newest whole checkpoint of a run.

    Args:
      directory: the workdir that `training.loop.train` was given.
      say: is given a line about each damaged checkpoint.

    Raises:
      InputError: it is no workdir, or holds no whole checkpoint.
    """
    config = workdir.read_config(directory)
    mesh = sharding.make_mesh()

    def abstract(card):
        model = build.model(config, len(card.class_names))
        # The optimiser's state has the same shapes whatever the size of the training set.
        optimizer = build.optimizer(config, train_images=1)
        return abstract_checkpoint(model, optimizer, card.image_shape, sharding.replicated(mesh))

    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(abstract, say)
    if restored is None:
        raise InputError(f"{directory} holds no checkpoint yet: resnet-jax train --workdir={directory} writes one")
    model = build.model(config, len(restored.card.class_names))
    return Trained(config, model, restored.state, restored.preprocessing, restored.card, mesh)
