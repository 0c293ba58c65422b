"""Where the blocks of a stage lie in the variables; this file alone knows.

The first block of a stage lies under "first". The others are alike and scanned: they lie under "rest", each array with
a leading axis of blocks. What follows the blocks has a name of its own. `unstack` gives every block a name of its own,
"block1", "block2", …, for what looks at single blocks, such as the weights of other libraries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FIRST, REST = "first", "rest"


def is_stacked(path: Sequence[Any]) -> bool:
    """Whether the array at a path of names has a leading axis of blocks.

    >>> is_stacked(("stage1", "rest", "conv1", "kernel")), is_stacked(("stage1", "first", "conv1", "kernel"))
    (True, False)
    """
    return REST in path


def block_names(part: str, blocks: int) -> list[str]:
    """The names that `unstack` gives the blocks of one part, "first" or "rest", of a stage of so many blocks."""
    return ["block1"] if part == FIRST else [f"block{i}" for i in range(2, blocks + 1)]


def unstack(tree: Any) -> Any:
    """Variables, gradients or captured intermediates of a network, with every block under a name of its own.

    The tree is of nested dicts of arrays or of `jax.ShapeDtypeStruct`s: one collection or several.

    >>> unstack({"stage1": {"first": {"bias": np.zeros(1)}, "rest": {"bias": np.ones((2, 1))}}})
    {'stage1': {'block1': {'bias': array([0.])}, 'block2': {'bias': array([1.])}, 'block3': {'bias': array([1.])}}}
    """
    if not isinstance(tree, Mapping):
        return tree
    if FIRST not in tree:
        return {name: unstack(each) for name, each in tree.items()}

    def block(i: int, leaf: Any) -> Any:
        abstract = isinstance(leaf, jax.ShapeDtypeStruct)
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if abstract else leaf[i]

    rest = tree.get(REST, {})
    blocks = 1 + next((leaf.shape[0] for leaf in jax.tree.leaves(rest)), 0)
    others = {
        name: jax.tree.map(lambda leaf, i=i: block(i, leaf), rest) for i, name in enumerate(block_names(REST, blocks))
    }
    after = {name: each for name, each in tree.items() if name not in (FIRST, REST)}
    return {"block1": tree[FIRST], **others, **after}


def stack(tree: Any) -> Any:
    """The inverse of `unstack`, to the bit; NumPy arrays stay such.

    >>> stack({"block1": {"bias": np.zeros(1)}, "block2": {"bias": np.ones(1)}})
    {'first': {'bias': array([0.])}, 'rest': {'bias': array([[1.]])}}
    """
    if not isinstance(tree, Mapping):
        return tree
    if "block1" not in tree:
        return {name: stack(each) for name, each in tree.items()}

    def joined(*leaves: Any) -> Any:
        return (np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp).stack(leaves)

    names = [name for name in block_names(REST, len(tree)) if name in tree]
    rest = {REST: jax.tree.map(joined, *(tree[name] for name in names))} if names else {}
    return {FIRST: tree["block1"], **rest, **{name: tree[name] for name in tree if name not in ("block1", *names)}}
