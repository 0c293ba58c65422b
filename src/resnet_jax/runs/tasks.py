"""What a run learns: to tell classes apart, or what a task of one's own says.

A task is made of a config and of what is known of the data; it does not know where its batches come from. This one is
the paper's with a loss of one's own, which has one metric more; metrics.jsonl tells of it as "train_top5_error":

>>> import functools
>>> import resnet_jax as rj
>>> def with_top5(config, metadata, train_images, mesh):
...     model = rj.runs.classification(config, metadata, train_images, mesh).model
...     loss = functools.partial(rj.training.cross_entropy, top_k=(5,))
...     return rj.runs.make_task(config, model, train_images, mesh, loss)
>>> run = rj.train(config, "runs/top5", make_task=with_top5)  # doctest: +SKIP

A workdir knows its config and its data, and no task: another task needs another folder.

A new data set wants no task. A folder of photographs is the data set "folder", and arrays are an input as they are:

>>> def mine(config, mesh, log, preprocessing):
...     dataset = rj.data.Dataset(train, None, test, ("cat", "dog"))  # splits such as rj.data.Split(images, labels)
...     return rj.runs.ResidentInput(dataset, config, mesh, preprocessing)
>>> run = rj.train(config, "runs/arrays", open_input=mine)  # doctest: +SKIP

What comes from elsewhere is an `inputs.Input` of one's own. What every command should know by its name gets that in
`data.small.load` or `data.images.open_images`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import optax
from jax.sharding import Mesh

from resnet_jax.configs.base import Config
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs import build, checks
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.training.losses import Loss, cross_entropy
from resnet_jax.training.metrics import Metrics
from resnet_jax.training.state import TrainState, abstract_state
from resnet_jax.training.step import eval_step, train_step


@dataclass(frozen=True)
class Task:
    """A network, its optimiser, and what is done with a batch: pure functions, which an input compiles.

    Attributes:
      model, optimizer: as the config describes them.
      train_step: (state, batch) -> (state, metrics).
      eval_step: (variables, batch) -> metrics; an "error" among them is what a run is reported with, else its "loss".
      ema: whether the state keeps averages of the variables, which are evaluated then.
      start: the model with the variables that training begins with; None draws them.
    """

    model: nn.Module
    optimizer: optax.GradientTransformationExtraArgs
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
    eval_step: Callable[[Any, Any], Metrics]
    ema: bool = False
    start: Classifier | None = None

    def abstract_state(self, image_shape: tuple[int, ...], mesh: Mesh) -> TrainState:
        """Shapes, dtypes and shardings of its state, see `training.state.abstract_state`."""
        return abstract_state(self.model, self.optimizer, image_shape, mesh, ema=self.ema)


# Makes a task of a config, of what is known of the data, of the number of training images, and of the devices.
TaskMaker: TypeAlias = Callable[[Config, CheckpointMetadata, int, Mesh], Task]


def classification(config: Config, metadata: CheckpointMetadata, train_images: int, mesh: Mesh) -> Task:
    """The paper's task.

    Raises:
      InputError: what would be trained to the end and learn nothing, see `checks.check_learnable`.
    """
    model = build.model(config, len(metadata.class_names))
    checks.check_learnable(config, model, metadata.image_shape)
    return make_task(config, model, train_images, mesh)


def make_task(config: Config, model: nn.Module, train_images: int, mesh: Mesh, loss: Loss = cross_entropy) -> Task:
    """A network that learns by a loss, with the config's optimiser.

    Args:
      config: its sections "optimizer" and "train".
      model: a Linen module that is called with (images, train).
      train_images: sets the length of a plateau's epochs.
      mesh: the devices.
      loss: of training and of evaluation, see `training.losses`.
    """
    optimizer, fields = build.optimizer(config, train_images), config.train
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        mesh=mesh,
        loss=loss,
        grad_accum_steps=fields.grad_accum_steps,
        skip_nonfinite=fields.max_skipped_steps > 0,
        ema_decay=fields.ema_decay,
    )
    return Task(model, optimizer, step, partial(eval_step, model=model, loss=loss), ema=fields.ema_decay is not None)
