"""Batch-norm statistics that are true averages over many training batches, instead of running ones (section 3.4)."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax import build, rng, sharding
from resnet_jax.data import photographs, sources, stream
from resnet_jax.data.augment import augment_photographs
from resnet_jax.data.pipeline import put_split, train_batch
from resnet_jax.errors import InputError
from resnet_jax.evaluation.trained import Trained


def recalibrate(
    trained: Trained, batches: int, dataset: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Trained:
    """The network with statistics averaged over the first training batches of its run, augmented as they were.

    The authors' released networks have such statistics. Running ones come from the last few dozen batches, and from
    parameters that have changed since. Means and unbiased variances of the batches (or of their groups) are averaged.

    Args:
      trained: a network.
      batches: at least 1.
      dataset, data_dir: what the data is and where it lies, if not what and where the run's config says.

    Raises:
      InputError: no such data, or no batch.
    """
    if batches < 1:
        raise InputError(f"statistics were asked to be averaged over {batches} batches, but it must be at least 1")
    # With momentum 0, "running" statistics are those of the last batch.
    model = trained.model.clone(momentum=0.0)

    @partial(jax.jit, out_shardings=sharding.replicated(trained.mesh))
    def add(totals, images):
        _, updated = model.apply(trained.variables, images, train=True, mutable=["batch_stats"])
        return jax.tree.map(jnp.add, totals, updated["batch_stats"])

    config = trained.config
    sharding.check_divides(trained.mesh, config.train.batch_size, "config.train.batch_size")
    name = dataset or config.dataset.name
    images_of = _streamed_images if name in photographs.NAMES else _resident_images
    images = images_of(trained, batches, name, data_dir or config.dataset.data_dir)
    totals = jax.tree.map(jnp.zeros_like, trained.variables["batch_stats"])
    for each in images:
        # One batch at a time: the devices would hold all that the host is ahead of them.
        totals = jax.block_until_ready(add(totals, each))
    batch_stats = jax.tree.map(lambda total: total / batches, totals)
    return replace(trained, variables={**trained.variables, "batch_stats": batch_stats})


def _streamed_images(
    trained: Trained, batches: int, name: str, data_dir: str | os.PathLike[str] | None
) -> Iterator[jax.Array]:
    config, mesh = trained.config, trained.mesh
    dataset = photographs.open_photographs(name, data_dir)

    @partial(jax.jit, static_argnums=2)
    def augmented(images, step, noise):
        key = jax.random.fold_in(rng.stream(jnp.uint32(config.seed), "augmentation"), step)
        return augment_photographs(key, images, trained.preprocessing, noise, config.dataset.mirror)

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
            yield augmented(sharding.put_batch(mesh, next(batches_of).images), step, config.stream.color_noise)
    finally:
        batches_of.close()


def _resident_images(
    trained: Trained, batches: int, name: str, data_dir: str | os.PathLike[str] | None
) -> Iterator[Any]:
    config = trained.config
    dataset = sources.load(name, data_dir, config.dataset.validation_images)
    split = put_split(dataset.train, trained.mesh)
    augmentation, size = build.augmentation(config), config.train.batch_size

    @jax.jit
    def augmented(split, preprocessing, step):
        images = train_batch(split, preprocessing, augmentation, jnp.uint32(config.seed), step, size).images
        return jax.lax.with_sharding_constraint(images, sharding.batch_sharded(trained.mesh))

    for step in range(batches):
        yield augmented(split, trained.preprocessing, jnp.asarray(step, jnp.int32))
