"""Batches of a device-resident data set, as pure functions of (seed, step), computed inside the compiled step."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Integer

from resnet_jax import rng
from resnet_jax.data.augment import pad_crop_mirror
from resnet_jax.data.batch import Batch, batch_indices
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.small import Split
from resnet_jax.distributed.mesh import put_everywhere


@flax.struct.dataclass
class DeviceSplit:
    """A split on the devices: images (count, height, width, channels) uint8, and their labels, (count,) int32."""

    images: jax.Array
    labels: jax.Array

    def __len__(self) -> int:
        return self.labels.shape[0]


def put_split(split: Split, mesh: Mesh) -> DeviceSplit:
    """Copies a whole split to every device."""
    return DeviceSplit(*put_everywhere(mesh, (split.images, split.labels)))


class Augmentation(NamedTuple):
    """Arguments of `augment.pad_crop_mirror`."""

    pad: int
    mirror: bool


def train_batch(
    split: DeviceSplit,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int | Integer[Array, ""],
    step: Integer[Array, ""],
    batch_size: int,
) -> Batch:
    """The batch of step k: the positions k * batch_size … of an endless sequence of shuffled epochs.

    Every epoch shows each example once; a batch may straddle two epochs.
    """
    rows = batch_indices(seed, step, batch_size, len(split))
    images = preprocessing(split.images[rows])
    key = jax.random.fold_in(rng.stream(seed, "augmentation"), step)
    images = pad_crop_mirror(key, images, augmentation.pad, augmentation.mirror)
    return Batch(images, split.labels[rows], jnp.ones(batch_size))


def eval_batch(split: DeviceSplit, preprocessing: Preprocessing, index: Integer[Array, ""], batch_size: int) -> Batch:
    """The `index`-th batch of a split in order; rows past its end repeat the last example with weight 0."""
    positions = index * batch_size + jnp.arange(batch_size)
    rows = jnp.minimum(positions, len(split) - 1)
    weights = (positions < len(split)).astype(jnp.float32)
    return Batch(preprocessing(split.images[rows]), split.labels[rows], weights)
