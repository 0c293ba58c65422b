"""What the loop drives: a network, its optimiser, and functions that train and score it on the config's data."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding

from resnet_jax import build, sharding
from resnet_jax.checkpoint import Card
from resnet_jax.configs import Config
from resnet_jax.data import sources
from resnet_jax.data.augment import Preprocessing, per_pixel_mean
from resnet_jax.data.pipeline import put_split
from resnet_jax.models import ResNet
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import Metrics, compile_evaluate, compile_train_steps


@dataclass(frozen=True)
class Task:
    """A config's network on its data.

    Attributes:
      model, optimizer: as the config describes them.
      card, preprocessing: what a checkpoint keeps beside the state.
      everywhere: the sharding of every array of the state.
      advance: (state, steps) -> (state, metrics and learning rates of each step); donates the state.
      score: (state, split) -> totals over the whole split, "test" or "validation".
      watched: the split that is scored during training.
    """

    model: ResNet
    optimizer: optax.GradientTransformationExtraArgs
    card: Card
    preprocessing: Preprocessing
    everywhere: Sharding
    advance: Callable[[TrainState, int], tuple[TrainState, Metrics, jax.Array]]
    score: Callable[[TrainState, str], Metrics]
    watched: str


def resident_task(config: Config) -> Task:
    """A task whose whole data set lies on the devices.

    Raises:
      InputError: the config names data, a network or devices that do not exist.
    """
    mesh = sharding.make_mesh(config.mesh.data)
    sharding.check_divides(mesh, config.train.batch_size, "config.train.batch_size")
    everywhere = sharding.replicated(mesh)
    dataset = sources.load(config.dataset.name, config.dataset.data_dir, config.dataset.validation_images)
    model = build.model(config, len(dataset.class_names))
    optimizer = build.optimizer(config, len(dataset.train))
    train_split = put_split(dataset.train, everywhere)
    splits = {"test": put_split(dataset.test, everywhere)}
    if dataset.validation is not None:
        splits["validation"] = put_split(dataset.validation, everywhere)
    preprocessing = jax.device_put(Preprocessing(jnp.asarray(per_pixel_mean(dataset.train.images))), everywhere)
    seed = jax.device_put(np.uint32(config.seed), everywhere)
    train_steps = compile_train_steps(
        model,
        optimizer,
        mesh,
        batch_size=config.train.batch_size,
        augmentation=build.augmentation(config),
    )
    evaluate = compile_evaluate(model, mesh, batch_size=config.eval.batch_size)
    return Task(
        model=model,
        optimizer=optimizer,
        card=Card(dataset.class_names, dataset.train.images.shape[1:], sources.checksum(dataset.train)),
        preprocessing=preprocessing,
        everywhere=everywhere,
        advance=lambda state, steps: train_steps(state, train_split, preprocessing, seed, steps),
        score=lambda state, split: evaluate(state.variables, splits[split], preprocessing),
        # Where there are images to validate on, the test images are looked at once, after the last iteration.
        watched="test" if dataset.validation is None else "validation",
    )
