"""What tells a whole checkpoint from a damaged one: hashes of its arrays, and of what a process sees of its files."""

import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.rng import hash_words


def crc_of_files(folder: Path) -> int:
    """A checksum of the names, sizes and first bytes of the files under a folder."""
    crc = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            what = f"{path.relative_to(folder)} {path.stat().st_size} ".encode() + file.read(1)
        crc = zlib.crc32(what, crc)
    return crc


def check_fingerprints(parts: list[Any], expected: list[int]) -> None:
    """Raises ValueError when trees of arrays have not the `fingerprint`s that were saved with them."""
    for part, value in zip(parts, expected, strict=False):
        if int(fingerprint(part)[0]) != value:
            raise ValueError("its arrays are not those that were saved")


_SMALL = 2**13


@jax.jit
def fingerprint(tree: Any) -> tuple[jax.Array, jax.Array]:
    """A hash of every bit of the arrays, uint32, and whether all of them are finite.

    Orbax's files carry no checksum of their arrays. Sums of integers do not depend on their order, so the hash is the
    same however the arrays are sharded.
    """
    total, finite = jnp.zeros((), jnp.uint32), jnp.ones((), bool)
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]
    # Most are small, and all of those are one array here: to compile a hash of each took as long as a training step.
    small, arrays = {}, [leaf for leaf in leaves if leaf.size > _SMALL]
    for leaf in leaves:
        if leaf.size <= _SMALL:
            small.setdefault(leaf.dtype, []).append(leaf)
    for i, flat in enumerate([*arrays, *map(jnp.concatenate, small.values())]):
        finite &= jnp.isfinite(flat).all()
        words = flat.astype(jnp.uint32) if flat.dtype == bool else jax.lax.bitcast_convert_type(flat, jnp.uint32)
        places = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(0x9E3779B9) + jnp.uint32(i)
        total += hash_words(words.reshape(-1) ^ hash_words(places)).sum(dtype=jnp.uint32)
    return total, finite
