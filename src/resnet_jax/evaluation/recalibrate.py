"""Batch-norm statistics of many training batches together, instead of running ones (section 3.4)."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from resnet_jax import build, rng, sharding
from resnet_jax.data import photographs, sources, stream
from resnet_jax.data.augment import augment_photographs
from resnet_jax.data.pipeline import put_split, train_batch
from resnet_jax.errors import InputError
from resnet_jax.evaluation.trained import Trained
from resnet_jax.models import ResNet
from resnet_jax.models.layers import batch_norm_maps


def recalibrate(
    trained: Trained, batches: int, dataset: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Trained:
    """The network with the statistics of the first training batches of its run, augmented as they were.

    The authors' released networks have such statistics. Running ones come from the last few dozen batches, and from
    parameters that have changed since. See `pooled_statistics`.

    Args:
      trained: a network.
      batches: at least 1.
      dataset, data_dir: what the data is and where it lies, if not what and where the run's config says.

    Raises:
      InputError: no such data, or no batch.
    """
    if batches < 1:
        raise InputError(f"statistics were asked to be averaged over {batches} batches, but it must be at least 1")
    config = trained.config
    sharding.check_divides(trained.mesh, config.train.batch_size, "config.train.batch_size")
    name = dataset or config.dataset.name
    images_of = _streamed_images if name in photographs.NAMES else _resident_images
    images = images_of(trained, batches, name, data_dir or config.dataset.data_dir)
    found = pooled_statistics(trained.model, trained.variables, images, config.train.accumulate)
    batch_stats = sharding.put_everywhere(trained.mesh, found)
    return replace(trained, variables={**trained.variables, "batch_stats": batch_stats})


def pooled_statistics(model: ResNet, variables: Any, batches: Iterable[jax.Array], accumulate: int = 1) -> Any:
    """Mean and unbiased variance of what reaches each batch norm in training, over the images of all batches together.

    What reaches a batch norm depends on the statistics that those before it used. They are those of each statistic
    group, as in training; so a group that differs from the others is normalised by its own statistics, and how much the
    groups' means differ is part of the variance.

    Args:
      model, variables: of the network; its parameters stay, and its running statistics are not used.
      batches: images of equally large batches, pre-processed and augmented.
      accumulate: parts of a batch that follow one another in training; where `model.group_size` is None each of them
        is a statistic group.

    Returns:
      a tree as the collection `batch_stats`, float32 NumPy arrays.
    """
    # With momentum 0, "running" statistics are those of the batch, and each group becomes a batch of its own.
    alone = model.clone(momentum=0.0, group_size=None)

    def of_group(images: jax.Array) -> dict[Any, Any]:
        _, updated = alone.apply(variables, images, train=True, mutable=["batch_stats"])
        return traverse_util.flatten_dict(updated["batch_stats"])

    @jax.jit
    def moments(images: jax.Array) -> dict[tuple[str, ...], tuple[jax.Array, jax.Array]]:
        groups = _in_groups(images, model.group_size, accumulate)
        stats, found = jax.vmap(of_group)(groups), {}
        for path, (height, width) in batch_norm_maps(model, images.shape[1:]).items():
            values = groups.shape[1] * height * width
            means, biased = stats[*path, "mean"], stats[*path, "var"] * ((values - 1) / values)
            found[path] = means.mean(0), biased.mean(0) + means.var(0)
        return found

    count, totals, shape = 0, {}, (0,)
    for images in batches:
        # One batch at a time: the devices would hold all that the host is ahead of them.
        found = jax.device_get(moments(images))
        sums = {
            path: np.stack([mean, var, np.square(mean)])
            for path, (mean, var) in jax.tree.map(np.float64, found).items()
        }
        totals = jax.tree.map(np.add, totals, sums) if totals else sums
        count, shape = count + 1, images.shape
    statistics = {}
    for path, (height, width) in batch_norm_maps(model, shape[1:]).items():
        mean, var, squared_mean = totals[path] / count
        values = count * shape[0] * height * width
        unbiased = (var + np.maximum(squared_mean - np.square(mean), 0.0)) * (values / max(values - 1, 1))
        statistics[*path, "mean"], statistics[*path, "var"] = np.float32(mean), np.float32(unbiased)
    return traverse_util.unflatten_dict(statistics)


def _in_groups(images: jax.Array, group_size: int | None, accumulate: int) -> jax.Array:
    """A batch as (groups, images of a group, …), grouped as a training step groups it."""
    if group_size is not None:
        return images.reshape(-1, group_size, *images.shape[1:])
    # As `training.step` deals the images out to its parts.
    return images.reshape(-1, accumulate, *images.shape[1:]).swapaxes(0, 1)


def _streamed_images(
    trained: Trained, batches: int, name: str, data_dir: str | os.PathLike[str] | None
) -> Iterator[jax.Array]:
    config, mesh = trained.config, trained.mesh
    # What there is to say of a folder, the evaluation has said.
    dataset = photographs.open_photographs(name, data_dir, lambda line: None)

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
