"""What a batch is, and which examples the batch of a step holds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Integer, Num

from resnet_jax import rng
from resnet_jax.errors import short_repr


class Batch(NamedTuple):
    """Images, uint8 as they come from the host and float32 once they are pre-processed; their classes, int32; and
    weights, float32: 1, or 0 for a row that holds no example. None where every row holds one.
    """

    images: Num[Array | np.ndarray, "batch height width channels"]
    labels: Integer[Array | np.ndarray, " batch"]
    weights: Float[Array | np.ndarray, " batch"] | None = None
    __repr__ = short_repr


def batch_indices(
    seed: int | Integer[Array | np.ndarray, ""],
    step: int | Integer[Array | np.ndarray, ""],
    batch_size: int,
    count: int,
) -> Int32[Array, " {batch_size}"]:
    """Which of `count` examples a step's batch holds: (batch_size,) int32; a ValueError where there are so many, and so
    many in a batch, that their positions do not fit into 32 bits.
    """
    # Nor does step * batch_size for long: batches and steps are divided into whole epochs and a rest first.
    epochs, rest = divmod(batch_size, count)
    if (count - 1) * rest + batch_size >= 2**32:
        raise ValueError(f"batches of {batch_size} out of {count} examples have positions beyond 2**32")
    step, size = jnp.asarray(step).astype(jnp.uint32), jnp.uint32(count)
    first_epoch = step * jnp.uint32(epochs) + step // size * jnp.uint32(rest)
    positions = step % size * jnp.uint32(rest) + jnp.arange(batch_size, dtype=jnp.uint32)
    return shuffled(positions % size, first_epoch + positions // size, count, seed)


# Rounds of the shuffle. log2(50,000) is 16; three times that mixes well beyond what a chi-squared test can tell
# (tested).
_ROUNDS = 48


def shuffled(
    position: Integer[Array | np.ndarray, "*shape"],
    epoch: Integer[Array | np.ndarray, "*shape"],
    count: int,
    seed: int | Integer[Array | np.ndarray, ""],
) -> Int32[Array, "*shape"]:
    """Where each position of an epoch's random order points: for every epoch a permutation of 0 … count - 1.

    A swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012): every round pairs each index with another one and a
    coin decides whether the two are swapped. Unlike a sorted permutation it costs nothing for the examples that are
    not asked for: a batch of 128 out of 50,000 takes microseconds, also on CPU, and no state.
    """
    size = jnp.uint32(count)
    word = rng.hash_words(rng.hash_words(jnp.asarray(epoch, jnp.uint32)) + jnp.asarray(seed, jnp.uint32))

    def swap_or_not(turn, index):
        round_key = rng.hash_words(word + jnp.uint32(turn) * jnp.uint32(0x9E3779B9))
        partner = (round_key % size + size - index) % size
        coin = rng.hash_words(jnp.maximum(index, partner) ^ rng.hash_words(round_key ^ jnp.uint32(0x5BF03635)))
        return jnp.where(coin & 1, partner, index)

    # All rounds written out take 1.9 s to trace and compile on a CPU, this takes 0.4. Six turns and not 48, since on a
    # GPU, where this was not measured, a turn is launched from the host.
    index = jax.lax.fori_loop(0, _ROUNDS, swap_or_not, jnp.asarray(position, jnp.uint32), unroll=8)
    return index.astype(jnp.int32)
