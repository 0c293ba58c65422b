"""Every random draw is a pure function of (seed, stream name, step): nothing random is ever stored."""

import zlib

import jax


def stream(seed: int, name: str) -> jax.Array:
    """The PRNG key of a named stream of draws, such as "parameters" or "augmentation"."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
