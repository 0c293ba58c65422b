"""Batches of a device-resident data set, as pure functions of (seed, step), computed inside the compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from resnet_jax import rng
from resnet_jax.data.augment import pad_crop_mirror
from resnet_jax.data.batch import Batch, batch_indices
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.small import Split


class Augmentation(NamedTuple):
    """Arguments of `augment.pad_crop_mirror`."""

    pad: int
    mirror: bool


def train_batch(
    split: Split,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int | Integer[Array, ""],
    step: Integer[Array, ""],
    batch_size: int,
) -> Batch:
    """The batch of step k: the positions k * batch_size … of an endless sequence of shuffled epochs."""
    rows = batch_indices(seed, step, batch_size, len(split))
    images = preprocessing(split.images[rows])
    key = jax.random.fold_in(rng.stream(seed, "augmentation"), step)
    images = pad_crop_mirror(key, images, augmentation.pad, augmentation.mirror)
    return Batch(images, split.labels[rows], jnp.ones(batch_size))


def eval_batch(split: Split, preprocessing: Preprocessing, index: Integer[Array, ""], batch_size: int) -> Batch:
    """The `index`-th batch of a split in order; rows past its end repeat the last example with weight 0."""
    positions = index * batch_size + jnp.arange(batch_size)
    rows = jnp.minimum(positions, len(split) - 1)
    weights = (positions < len(split)).astype(jnp.float32)
    return Batch(preprocessing(split.images[rows]), split.labels[rows], weights)
