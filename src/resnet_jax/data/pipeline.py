"""Batches of a device-resident data set, as pure functions of (seed, step), computed inside the compiled step."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from resnet_jax import rng
from resnet_jax.data.augment import pad_crop_mirror
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.sources import Split
from resnet_jax.sharding import put_everywhere


@flax.struct.dataclass
class DeviceSplit:
    """A split that was put on the devices once: uint8 images (count, height, width, channels), int32 labels
    (count,).
    """

    images: jax.Array
    labels: jax.Array

    def __len__(self) -> int:
        return self.labels.shape[0]


def put_split(split: Split, mesh: Mesh) -> DeviceSplit:
    """Copies a whole split to every device."""
    return DeviceSplit(*put_everywhere(mesh, (split.images, split.labels)))


class Batch(NamedTuple):
    """Pre-processed images (batch, height, width, channels) float32, labels (batch,) int32, weights (batch,) float32.

    A weight is 1, or 0 for a place that holds no example (the last batch of an evaluation).
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class Augmentation(NamedTuple):
    """Arguments of `augment.pad_crop_mirror`."""

    pad: int
    mirror: bool


def train_batch(
    split: DeviceSplit,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int | jax.Array,
    step: jax.Array,
    batch_size: int,
) -> Batch:
    """The batch of a training step: step k takes the positions k * batch_size … of an endless sequence of shuffled
    epochs.

    Every epoch shows each example once; a batch may straddle two epochs.
    """
    rows = batch_rows(seed, step, batch_size, len(split))
    images = preprocessing(split.images[rows])
    key = jax.random.fold_in(rng.stream(seed, "augmentation"), step)
    images = pad_crop_mirror(key, images, augmentation.pad, augmentation.mirror)
    return Batch(images, split.labels[rows], jnp.ones(batch_size))


def batch_rows(seed: int | jax.Array, step: int | jax.Array, batch_size: int, count: int) -> jax.Array:
    """Which of `count` examples a step's batch holds: (batch_size,) int32.

    Raises:
      ValueError: there are so many examples, and so many in a batch, that their places do not fit into 32 bits.
    """
    # The first place is that of step * batch_size in an endless sequence, which 32 bits do not hold for long: batches
    # and steps are taken apart into whole epochs and a rest first.
    epochs, rest = divmod(batch_size, count)
    if (count - 1) * rest + batch_size >= 2**32:
        raise ValueError(f"batches of {batch_size} out of {count} examples have places beyond 2**32")
    step, size = jnp.asarray(step).astype(jnp.uint32), jnp.uint32(count)
    first_epoch = step * jnp.uint32(epochs) + step // size * jnp.uint32(rest)
    places = step % size * jnp.uint32(rest) + jnp.arange(batch_size, dtype=jnp.uint32)
    return shuffled(places % size, first_epoch + places // size, count, seed)


def eval_batch(split: DeviceSplit, preprocessing: Preprocessing, index: jax.Array, batch_size: int) -> Batch:
    """The `index`-th batch of a split in order; places past its end repeat the last example with weight 0."""
    positions = index * batch_size + jnp.arange(batch_size)
    rows = jnp.minimum(positions, len(split) - 1)
    weights = (positions < len(split)).astype(jnp.float32)
    return Batch(preprocessing(split.images[rows]), split.labels[rows], weights)


# Rounds of the shuffle. log2(50,000) is 16; three times that mixes well beyond what a chi-squared test can tell
# (tested).
_ROUNDS = 48


def shuffled(position: jax.Array, epoch: jax.Array, count: int, seed: int | jax.Array) -> jax.Array:
    """Where each position of an epoch's random order points: for every epoch a permutation of 0 … count - 1.

    A swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012): every round pairs each index with another one and a
    coin decides whether the two change places. Unlike a sorted permutation it costs nothing for the examples that are
    not asked for: a batch of 128 out of 50,000 takes microseconds, also on CPU, and no state.

    Args:
      position, epoch: uint32 arrays of one shape.
      count: examples in an epoch.
      seed: of the run.
    """
    size = jnp.uint32(count)
    word = rng.hash_words(rng.hash_words(epoch.astype(jnp.uint32)) + jnp.asarray(seed, jnp.uint32))

    def swap_or_not(turn, index):
        round_key = rng.hash_words(word + jnp.uint32(turn) * jnp.uint32(0x9E3779B9))
        partner = (round_key % size + size - index) % size
        coin = rng.hash_words(jnp.maximum(index, partner) ^ rng.hash_words(round_key ^ jnp.uint32(0x5BF03635)))
        return jnp.where(coin & 1, partner, index)

    # All rounds written out take 1.9 s to trace and compile on a CPU, this takes 0.4. Six turns and not 48, since on a
    # GPU, where this was not measured, a turn is launched from the host.
    index = jax.lax.fori_loop(0, _ROUNDS, swap_or_not, position.astype(jnp.uint32), unroll=8)
    return index.astype(jnp.int32)
