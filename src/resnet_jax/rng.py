"""Every random draw is a pure function of (seed, stream name, step): nothing random is ever stored."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["hash_words", "stream"]


def __dir__() -> list[str]:
    return __all__


def stream(seed: int | jax.Array | np.ndarray, name: str) -> jax.Array:
    """The PRNG key of a named stream of draws, such as "parameters" or "augmentation"; a seed is below 2**32."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def hash_words(words: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: a bijection of uint32 in which every input bit changes every output bit."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
