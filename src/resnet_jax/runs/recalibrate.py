"""Batch-norm statistics of many training batches of a run."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax import rng
from resnet_jax.data import small, stream
from resnet_jax.data.augment import augment_images, pad_crop_mirror
from resnet_jax.data.images import NAMES, open_images
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import check_divides, put_batch
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.recalibrate import recalibrate
from resnet_jax.runs import build
from resnet_jax.runs.load import LoadedRun


def recalibrate_run(
    run: LoadedRun, batches: int, dataset: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Classifier:
    """The network with the statistics of the first training batches of its run, augmented as they were.

    Args:
      run: whose config says which images and batches these are.
      batches: at least 1.
      dataset, data_dir: what the data is and where it lies, if not what and where the config says.

    Raises:
      InputError: no such data, or no batch.
    """
    config = run.config
    check_divides(run.mesh, config.train.batch_size, "config.train.batch_size")
    images = _training_images(run, batches, dataset or config.dataset.name, data_dir or config.dataset.data_dir)
    return recalibrate(run.classifier, images, config.train.grad_accum_steps)


def _training_images(
    run: LoadedRun, batches: int, name: str, data_dir: str | os.PathLike[str] | None
) -> Iterator[jax.Array]:
    config = run.config
    fields, size = config.dataset, config.train.batch_size
    streamed = name in NAMES

    @jax.jit
    def augmented(images: jax.Array, preprocessing: Preprocessing, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(rng.stream(jnp.uint32(config.seed), "augmentation"), step)
        if streamed:
            return augment_images(key, images, preprocessing, config.stream.pca_lighting, fields.mirror)
        return pad_crop_mirror(key, preprocessing(images), fields.pad, fields.mirror)

    if streamed:
        # What there is to say of a folder, the evaluation has said.
        train = open_images(name, data_dir, lambda line: None).train
        cropping, workers = build.cropping(config), build.workers(config)
        made: Any = stream.train_batches(train, cropping, seed=config.seed, batch_size=size, start=0, workers=workers)
    else:
        made = small.load(name, data_dir, fields.validation_images).train.batches(size, seed=config.seed)
    with contextlib.closing(made):
        for step, batch in enumerate(itertools.islice(made, max(batches, 0))):
            images = put_batch(run.mesh, batch.images)
            yield augmented(images, run.classifier.preprocessing, step)
