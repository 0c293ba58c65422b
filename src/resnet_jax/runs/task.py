"""What the loop drives: a network, its optimiser, and functions that train and score it on the config's data."""

import functools
import zlib
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax.configs import Config
from resnet_jax.data import cache, sequential, small, stream
from resnet_jax.data.batch import Batch, batch_indices
from resnet_jax.data.images import NAMES, open_images
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.data.resident import put_split
from resnet_jax.distributed import agreement
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, put_batch, put_everywhere
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.runs import build
from resnet_jax.runs.checkpoints import CheckpointMetadata
from resnet_jax.training.compiled import compile_evaluate, compile_stream_eval, compile_stream_step, compile_train_steps
from resnet_jax.training.metrics import Metrics
from resnet_jax.training.state import TrainState, abstract_state


@dataclass(frozen=True)
class Task:
    """A config's network on its data.

    Attributes:
      model, optimizer: as the config describes them.
      metadata, preprocessing: what a checkpoint keeps beside the state.
      mesh: the devices.
      program: the compiled program of a dispatch of so many steps.
      advance: (state, steps, stop) -> (state, metrics and learning rates of each step); donates the state. Wherever it
        could end it asks `stop`, and ends there when that is true: after fewer steps, perhaps.
      score: (state, split, stop) -> totals over the whole split; where `stop` says so, over what was seen of it.
      batch_indices: step -> the places in the training set of the images of its batch.
      watched: the split that is scored during training.
      final: the split whose error after the last iteration is the result.
      close: ends what the task keeps running beside the loop.
    """

    model: ResNet
    optimizer: optax.GradientTransformationExtraArgs
    metadata: CheckpointMetadata
    preprocessing: Preprocessing
    mesh: Mesh
    program: Callable[[int], jax.stages.Compiled]
    advance: Callable[[TrainState, int, Callable[[], bool]], tuple[TrainState, Metrics, Any]]
    score: Callable[[TrainState, str, Callable[[], bool]], Metrics]
    batch_indices: Callable[[int], np.ndarray]
    watched: str
    final: str = "test"
    close: Callable[[], None] = lambda: None


# Makes a task from a config, from what is given lines about the data, and from the pre-processing of the run's
# checkpoints, if there are any.
TaskMaker: TypeAlias = Callable[[Config, Callable[[str], None], Preprocessing | None], Task]


def make_task(config: Config, log: Callable[[str], None], saved: Preprocessing | None = None) -> Task:
    """The task of a config.

    Args:
      config: of the run.
      log: is given lines about the data.
      saved: the pre-processing of the run's checkpoints, if it has any; of photographs it is not measured again.

    Raises:
      InputError: the config names data, a network or devices that do not exist.
    """
    return stream_task(config, log, saved) if config.dataset.name in NAMES else resident_task(config)


def make_mesh(config: Config) -> Mesh:
    """The mesh that a config asks for, which cuts its batches into equal parts.

    Raises:
      InputError: the devices do not make it, or the batch does not fit it.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    fields = config.train
    check_divides(mesh, fields.batch_size, "config.train.batch_size", grad_accum_steps=fields.grad_accum_steps)
    # A part of a batch is normalised on its device.
    images = fields.batch_size // (mesh.size * fields.grad_accum_steps)
    build.check_bn_groups(config, images, 1 if fields.grad_accum_steps > 1 else mesh.size)
    return mesh


def _check_same(metadata: CheckpointMetadata, train: Sized, scored: Sized, scored_crc: int) -> None:
    agreement.check_same_data(
        {
            "the number of classes": len(metadata.class_names),
            "the checksum of the classes": zlib.crc32("\0".join(metadata.class_names).encode()),
            "the number of training images": len(train),
            "the number of images to score": len(scored),
            "the checksum of the training data": metadata.data_crc,
            "the checksum of the images to score": scored_crc,
        }
    )


def _checksum(arrays: Any) -> int:
    """CRC-32 of all arrays of a tree."""
    crc = 0
    for leaf in jax.tree.leaves(arrays):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return crc


def resident_task(config: Config) -> Task:
    """A task whose whole data set lies on the devices; see `make_task`."""
    mesh = make_mesh(config)
    dataset = small.load(config.dataset.name, config.dataset.data_dir, config.dataset.validation_images)
    metadata = CheckpointMetadata(dataset.class_names, dataset.train.images.shape[1:], small.checksum(dataset.train))
    _check_same(metadata, dataset.train, dataset.test, small.checksum(dataset.test))
    model = build.model(config, len(dataset.class_names))
    build.check_learnable(config, model, metadata.image_shape)
    optimizer = build.optimizer(config, len(dataset.train))
    train_split = put_split(dataset.train, mesh)
    splits = {"test": put_split(dataset.test, mesh)}
    if dataset.validation is not None:
        splits["validation"] = put_split(dataset.validation, mesh)
    preprocessing = put_everywhere(mesh, Preprocessing(jnp.asarray(per_pixel_mean(dataset.train.images))))
    seed = put_everywhere(mesh, np.uint32(config.seed))
    batch_size = config.train.batch_size
    train_steps = compile_train_steps(
        model,
        optimizer,
        mesh,
        batch_size=batch_size,
        augmentation=build.augmentation(config),
        grad_accum_steps=config.train.grad_accum_steps,
        skip_nonfinite=config.train.max_skipped_steps > 0,
    )
    evaluate = compile_evaluate(model, mesh, batch_size=config.eval.batch_size)

    @functools.cache
    def program(steps: int):
        state = abstract_state(model, optimizer, metadata.image_shape, mesh)
        return train_steps.lower(state, train_split, preprocessing, seed, steps).compile()

    def advance(state: TrainState, steps: int, stop: Callable[[], bool]):
        # Ended, and not only begun: a signal meanwhile stops the run here and not a dispatch later.
        made = jax.block_until_ready(program(steps)(state, train_split, preprocessing, seed))
        stop()
        return made

    return Task(
        model=model,
        optimizer=optimizer,
        metadata=metadata,
        preprocessing=preprocessing,
        mesh=mesh,
        program=program,
        advance=advance,
        score=lambda state, split, stop: evaluate(state.variables, splits[split], preprocessing),
        batch_indices=lambda step: np.asarray(batch_indices(config.seed, step, batch_size, len(dataset.train))),
        # Where there are images to validate on, the test images are looked at once, after the last iteration.
        watched="test" if dataset.validation is None else "validation",
    )


def _report(report: stream.DamageReport, damaged: Iterable[int]) -> None:
    """Tells the report of every host the damaged photographs that any of them met: here all of them meet."""
    found = agreement.exchange(sorted({int(index) for index in damaged} - report.found))
    report(np.array(sorted(set().union(*found)), np.int64))


# Steps that may wait on the devices: enough for them never to wait for the host, and few batches in their memory.
_AHEAD = 2


def stream_task(config: Config, log: Callable[[str], None], saved: Preprocessing | None) -> Task:
    """A task whose photographs are read while it runs; see `make_task`."""
    mesh = make_mesh(config)
    batch_size = config.train.batch_size
    dataset = open_images(config.dataset.name, config.dataset.data_dir, log)
    cache.warn_of_enlarging(dataset.resize_size, build.shorter_sides(config), log)
    cropping = build.cropping(config)
    metadata = CheckpointMetadata(dataset.class_names, (cropping.side, cropping.side, 3), dataset.crc)
    _check_same(metadata, dataset.train, dataset.validation, dataset.crc)
    model = build.model(config, len(dataset.class_names))
    build.check_learnable(config, model, metadata.image_shape)
    optimizer = build.optimizer(config, len(dataset.train))
    preprocessing = saved or build.image_preprocessing(config, dataset.train, log)
    # Each host measured the mean image of its own files, and the devices do not compare what they are given.
    agreement.check_same_data({"the checksum of the mean image": _checksum(preprocessing)})
    preprocessing = put_everywhere(mesh, preprocessing)
    seed = put_everywhere(mesh, np.uint32(config.seed))
    train_step = compile_stream_step(
        model,
        optimizer,
        mesh,
        noise=config.stream.pca_lighting,
        mirrored=config.dataset.mirror,
        grad_accum_steps=config.train.grad_accum_steps,
        skip_nonfinite=config.train.max_skipped_steps > 0,
    )
    evaluate = compile_stream_eval(model, mesh)
    replaced = stream.DamageReport(dataset.train, config.stream.max_corrupt_fraction, log)
    left_out = stream.DamageReport(dataset.validation, config.stream.max_corrupt_fraction, log, "it is left out")
    host = (jax.process_index(), jax.process_count())
    batches = stream.train_batches(
        dataset.train,
        cropping,
        seed=config.seed,
        batch_size=batch_size,
        start=0,
        workers=build.workers(config),
        host=host,
    )

    @functools.cache
    def program(steps: int):
        del steps  # each is a dispatch of its own
        state = abstract_state(model, optimizer, metadata.image_shape, mesh)
        cut = batch_sharded(mesh)
        images = jax.ShapeDtypeStruct((batch_size, *metadata.image_shape), jnp.uint8, sharding=cut)
        labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=cut)
        return train_step.lower(state, images, labels, preprocessing, seed).compile()

    def advance(state: TrainState, steps: int, stop: Callable[[], bool]):
        batches.go_to(int(state.step))
        step, found, damaged = program(1), [], []
        for _ in range(steps):
            batch = next(batches)
            damaged += batch.damaged[batch.damaged >= 0].tolist()
            images, labels = put_batch(mesh, (batch.images, batch.labels))
            state, *metrics_and_rate = step(state, images, labels, preprocessing, seed)
            found.append(metrics_and_rate)
            if len(found) > _AHEAD:
                jax.block_until_ready(found[-_AHEAD - 1])
            if stop():
                break
        _report(replaced, damaged)
        # Stacked here: on the devices it would be hundreds of dispatches, and a program for each number of steps.
        metrics, rates = jax.tree.map(lambda *each: np.stack(each), *jax.device_get(found))
        return state, metrics, rates

    def score(state: TrainState, split: str, stop: Callable[[], bool]) -> Metrics:
        totals: Any = None
        size = config.eval.batch_size + -config.eval.batch_size % mesh.size
        photos = getattr(dataset, split)
        damaged: list[int] = []
        views = sequential.central_batches(photos, metadata.image_shape, preprocessing, size, damaged.extend, host)
        for batch in views:
            found = evaluate(state.variables, Batch(*put_batch(mesh, batch)), preprocessing)
            # One batch at a time: the devices would hold all that the host is ahead of them.
            found = jax.device_get(found)
            totals = found if totals is None else jax.tree.map(np.add, totals, found)
            if stop():
                return totals
        _report(left_out, damaged)
        if totals is None or not totals["loss"].count:
            raise InputError(f"all of the {len(photos)} {split} photographs are damaged: is the data set whole?")
        return totals

    return Task(
        model=model,
        optimizer=optimizer,
        metadata=metadata,
        preprocessing=preprocessing,
        mesh=mesh,
        program=program,
        advance=advance,
        score=score,
        batch_indices=lambda step: stream.batch_indices(len(dataset.train), config.seed, batch_size, step),
        watched="validation",
        final="validation",
        close=batches.close,
    )
