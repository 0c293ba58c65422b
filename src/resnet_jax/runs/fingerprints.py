"""What tells a whole checkpoint from a damaged one: hashes of its arrays, and of what a process sees of its files."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.files import is_remote, sizes
from resnet_jax.rng import hash_words


def crc_of_files(folder: Path) -> int:
    """A checksum of the names, sizes and first bytes of the files under a folder."""
    crc = 0
    for name, size in sorted(sizes(folder).items()):
        first = b""
        if not is_remote(folder):  # what a bucket lists is there as a whole
            with (folder / name).open("rb") as file:
                first = file.read(1)
        what = f"{name} {size} ".encode() + first
        crc = zlib.crc32(what, crc)
    return crc


def check_fingerprints(parts: Mapping[str, Any], expected: Mapping[str, int]) -> None:
    """Raises ValueError when trees of arrays have not the `fingerprint`s that were saved under their names."""
    # All of them first: each process must take part in those of arrays that lie on several processes' devices.
    found = jax.device_get({name: fingerprint(part) for name, part in parts.items()})
    for name, value in found.items():
        if int(value) != expected[name]:
            raise ValueError(f"its arrays are not those that were saved ({name})")


# Arrays of at most so many elements are hashed together.
_SMALL = 2**13
# Between the places of two neighbours: the golden ratio, as in Knuth's multiplicative hashing.
_STRIDE = 0x9E3779B9


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
    """A hash of every bit of the arrays, uint32; their dtypes may be any that JAX has, keys included.

    Orbax's files carry no checksum of their arrays. Each word is hashed with its place and the number of its array;
    sums of integers do not depend on their order, so the hash is the same however the arrays are sharded.
    """
    total = jnp.zeros((), jnp.uint32)
    for group in _together(tree):
        numbered = [(i, _words(leaf)) for i, leaf in group]
        words = jnp.concatenate([words for _, words in numbered])
        places = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(_STRIDE) + _first_places(numbered)
        total += hash_words(words ^ hash_words(places)).sum(dtype=jnp.uint32)
    return total


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no number of the arrays is infinite or NaN, bool."""
    finite = jnp.ones((), bool)
    for group in _together(tree):
        finite &= jnp.isfinite(jnp.concatenate([leaf for _, leaf in group])).all()
    return finite


def _together(tree: Any) -> list[list[tuple[int, jax.Array]]]:
    """The arrays, flat and with their numbers, in groups of one dtype: small ones together, since to compile a hash of
    each took as long as a training step.
    """
    groups: dict[Any, list[tuple[int, jax.Array]]] = {}
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        groups.setdefault(i if leaf.size > _SMALL else leaf.dtype, []).append((i, leaf.reshape(-1)))
    return list(groups.values())


def _words(array: jax.Array) -> jax.Array:
    """The bits of a flat array, uint32: a word for each number, two for one of 64 bits and so on."""
    if jnp.iscomplexobj(array):
        array = jnp.concatenate([array.real, array.imag])
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    bits = (jnp.finfo if jnp.issubdtype(array.dtype, jnp.floating) else jnp.iinfo)(array.dtype).bits
    if bits < 32:
        return jax.lax.bitcast_convert_type(array, f"uint{bits}").astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1)


def _first_places(numbered: list[tuple[int, jax.Array]]) -> jax.Array:
    """What to add to places that are counted through several arrays, so that they begin anew with each one's number."""
    # Constants: to compile a count for each array of a tree like ResNet-110's took four times as long, and jnp.repeat
    # far longer.
    start, first = 0, []
    for i, words in numbered:
        first.append(jnp.full(words.size, (i - start * _STRIDE) % 2**32, jnp.uint32))
        start += words.size
    return jnp.concatenate(first)
