"""What the loop drives: a network, its optimiser, and functions that train and score it on the config's data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding

from resnet_jax import build, sharding
from resnet_jax.checkpoint import Card
from resnet_jax.configs import Config
from resnet_jax.data import passes, photographs, sources, stream
from resnet_jax.data.augment import Preprocessing, per_pixel_mean
from resnet_jax.data.pipeline import Batch, put_split
from resnet_jax.models import ResNet
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import (
    Metrics,
    compile_evaluate,
    compile_stream_eval,
    compile_stream_step,
    compile_train_steps,
)


@dataclass(frozen=True)
class Task:
    """A config's network on its data.

    Attributes:
      model, optimizer: as the config describes them.
      card, preprocessing: what a checkpoint keeps beside the state.
      everywhere: the sharding of every array of the state.
      advance: (state, steps) -> (state, metrics and learning rates of each step); donates the state.
      score: (state, split) -> totals over the whole split.
      watched: the split that is scored during training.
      final: the split whose error after the last iteration is the result.
      close: ends what the task keeps running beside the loop.
    """

    model: ResNet
    optimizer: optax.GradientTransformationExtraArgs
    card: Card
    preprocessing: Preprocessing
    everywhere: Sharding
    advance: Callable[[TrainState, int], tuple[TrainState, Metrics, Any]]
    score: Callable[[TrainState, str], Metrics]
    watched: str
    final: str = "test"
    close: Callable[[], None] = lambda: None


def make_task(config: Config, say: Callable[[str], None], saved: Preprocessing | None = None) -> Task:
    """The task of a config.

    Args:
      config: of the run.
      say: is given lines about the data.
      saved: the pre-processing of the run's checkpoints, if it has any; of photographs it is not measured again.

    Raises:
      InputError: the config names data, a network or devices that do not exist.
    """
    return stream_task(config, say, saved) if config.dataset.name in photographs.NAMES else resident_task(config)


def resident_task(config: Config) -> Task:
    """A task whose whole data set lies on the devices; see `make_task`."""
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


# Steps that may wait on the devices: enough for them never to wait for the host, and few batches in their memory.
_AHEAD = 2


def stream_task(config: Config, say: Callable[[str], None], saved: Preprocessing | None) -> Task:
    """A task whose photographs are read while it runs; see `make_task`."""
    mesh = sharding.make_mesh(config.mesh.data)
    everywhere = sharding.replicated(mesh)
    batch_size = config.train.batch_size
    sharding.check_divides(mesh, batch_size, "config.train.batch_size")
    dataset = photographs.open_photographs(config.dataset.name, config.dataset.data_dir)
    model = build.model(config, len(dataset.class_names))
    optimizer = build.optimizer(config, len(dataset.train))
    cropping = build.cropping(config)
    preprocessing = saved or build.photograph_preprocessing(config, dataset.train, say)
    preprocessing = jax.device_put(preprocessing, everywhere)
    seed = jax.device_put(np.uint32(config.seed), everywhere)
    step = compile_stream_step(model, optimizer, mesh, noise=config.stream.color_noise, mirrored=config.dataset.mirror)
    evaluate = compile_stream_eval(model, mesh)
    damaged = stream.DamageReport(dataset.train, config.stream.damaged_share, say)
    batches = None

    def advance(state: TrainState, steps: int):
        nonlocal batches
        if batches is None:
            batches = stream.train_batches(
                dataset.train,
                cropping,
                seed=config.seed,
                batch_size=batch_size,
                start=int(state.step),
                workers=build.workers(config),
                host=(jax.process_index(), jax.process_count()),
            )
        found = []
        for _ in range(steps):
            batch = next(batches)
            damaged(batch.damaged)
            images, labels = sharding.put_batch(mesh, (batch.images, batch.labels))
            state, *metrics_and_rate = step(state, images, labels, preprocessing, seed)
            found.append(metrics_and_rate)
            if len(found) > _AHEAD:
                jax.block_until_ready(found[-_AHEAD - 1])
        # Stacked here: on the devices it would be hundreds of dispatches, and a program for each number of steps.
        metrics, rates = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(found))
        return state, metrics, rates

    def score(state: TrainState, split: str) -> Metrics:
        totals = Metrics(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
        size = config.eval.batch_size + -config.eval.batch_size % mesh.size
        photos, fields = getattr(dataset, split), config.stream
        views = passes.central_batches(photos, fields.shorter_side, fields.side, fields.interpolation, size, left_out)
        for batch in views:
            found = evaluate(state.variables, Batch(*sharding.put_batch(mesh, batch)), preprocessing)
            # One batch at a time: the devices would hold all that the host is ahead of them.
            totals = jax.block_until_ready(jax.tree.map(jnp.add, totals, found))
        return totals

    left_out = stream.DamageReport(dataset.validation, config.stream.damaged_share, say, "it is left out")
    return Task(
        model=model,
        optimizer=optimizer,
        card=Card(dataset.class_names, (cropping.side, cropping.side, 3), dataset.crc),
        preprocessing=preprocessing,
        everywhere=everywhere,
        advance=advance,
        score=score,
        watched="validation",
        final="validation",
        close=lambda: batches.close() if batches is not None else None,
    )
