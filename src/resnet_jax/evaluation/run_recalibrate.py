"""Batch-norm statistics of many training batches of a run."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax import build, rng, sharding
from resnet_jax.data import photographs, sources, stream
from resnet_jax.data.augment import augment_photographs
from resnet_jax.data.pipeline import put_split, train_batch
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.recalibrate import recalibrate
from resnet_jax.evaluation.trained import LoadedRun


def recalibrate_run(
    run: LoadedRun, batches: int, dataset: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Classifier:
    """The network with the statistics of the first training batches of its run, augmented as they were.

    Args:
      run: a run.
      batches: at least 1.
      dataset, data_dir: what the data is and where it lies, if not what and where the run's config says.

    Raises:
      InputError: no such data, or no batch.
    """
    if batches < 1:
        raise InputError(f"statistics were asked to be averaged over {batches} batches, but it must be at least 1")
    config = run.config
    sharding.check_divides(run.mesh, config.train.batch_size, "config.train.batch_size")
    name = dataset or config.dataset.name
    images_of = _streamed_images if name in photographs.NAMES else _resident_images
    images = images_of(run, batches, name, data_dir or config.dataset.data_dir)
    return recalibrate(run.classifier, images, config.train.accumulate)


def _streamed_images(
    run: LoadedRun, batches: int, name: str, data_dir: str | os.PathLike[str] | None
) -> Iterator[jax.Array]:
    config, classifier = run.config, run.classifier
    # What there is to say of a folder, the evaluation has said.
    dataset = photographs.open_photographs(name, data_dir, lambda line: None)

    @partial(jax.jit, static_argnums=2)
    def augmented(images, step, noise):
        key = jax.random.fold_in(rng.stream(jnp.uint32(config.seed), "augmentation"), step)
        return augment_photographs(key, images, classifier.preprocessing, noise, config.dataset.mirror)

    batches_of = stream.train_batches(
        dataset.train,
        build.cropping(config),
        seed=config.seed,
        batch_size=config.train.batch_size,
        start=0,
        workers=build.workers(config),
    )
    try:
        for step in range(batches):
            yield augmented(sharding.put_batch(run.mesh, next(batches_of).images), step, config.stream.color_noise)
    finally:
        batches_of.close()


def _resident_images(run: LoadedRun, batches: int, name: str, data_dir: str | os.PathLike[str] | None) -> Iterator[Any]:
    config, classifier = run.config, run.classifier
    dataset = sources.load(name, data_dir, config.dataset.validation_images)
    split = put_split(dataset.train, run.mesh)
    augmentation, size = build.augmentation(config), config.train.batch_size

    @jax.jit
    def augmented(split, preprocessing, step):
        images = train_batch(split, preprocessing, augmentation, jnp.uint32(config.seed), step, size).images
        return jax.lax.with_sharding_constraint(images, sharding.batch_sharded(run.mesh))

    for step in range(batches):
        yield augmented(split, classifier.preprocessing, jnp.asarray(step, jnp.int32))
