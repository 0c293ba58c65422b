"""Where the blocks of a stage lie in the variables; this file alone knows.

The first block of a stage lies under "first". The others are alike and scanned: they lie under "rest", each array with
a leading axis of blocks. `unstack` gives every block a name of its own, "block1", "block2", …, for what looks at single
blocks, such as the weights of other libraries.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    """The names that `unstack` gives the blocks of one part, "first" or "rest", of a stage of so many blocks.

    >>> block_names("first", 3), block_names("rest", 3)
    (['block1'], ['block2', 'block3'])
    """
    return ["block1"] if part == FIRST else [f"block{i}" for i in range(2, blocks + 1)]


def unstack(tree: Any) -> Any:
    """Variables, gradients or captured intermediates of a network, with every block under a name of its own.

    Args:
      tree: nested dicts of arrays or of `jax.ShapeDtypeStruct`s, of any dtype: one collection or several.

    Returns:
      the same, where a stage's "first" and "rest" are "block1", "block2", … without an axis of blocks.

    >>> unstack({"stage1": {"first": {"bias": np.zeros(1)}, "rest": {"bias": np.ones((2, 1))}}})
    {'stage1': {'block1': {'bias': array([0.])}, 'block2': {'bias': array([1.])}, 'block3': {'bias': array([1.])}}}
    """

    def separate(stage: Mapping[str, Any]) -> dict[str, Any]:
        rest = stage.get(REST, {})
        blocks = 1 + next((leaf.shape[0] for leaf in jax.tree.leaves(rest)), 0)
        others = [jax.tree.map(partial(_block, i), rest) for i in range(blocks - 1)]
        return {"block1": stage[FIRST], **dict(zip(block_names(REST, blocks), others, strict=True))}

    return _in_stages(tree, FIRST, separate)


def stack(tree: Any) -> Any:
    """The inverse of `unstack`, to the bit; NumPy arrays stay such.

    >>> stack({"block1": {"bias": np.zeros(1)}, "block2": {"bias": np.ones(1)}})
    {'first': {'bias': array([0.])}, 'rest': {'bias': array([[1.]])}}
    """

    def join(stage: Mapping[str, Any]) -> dict[str, Any]:
        others = [stage[name] for name in block_names(REST, len(stage))]
        return {FIRST: stage["block1"]} | ({REST: jax.tree.map(_joined, *others)} if others else {})

    return _in_stages(tree, "block1", join)


def _block(i: int, leaf: Any) -> Any:
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if abstract else leaf[i]


def _joined(*leaves: Any) -> Any:
    return np.stack(leaves) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp.stack(leaves)


def _in_stages(tree: Any, child: str, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """The tree with each stage changed: what has a child of this name is one."""
    if not isinstance(tree, Mapping):
        return tree
    return change(tree) if child in tree else {name: _in_stages(each, child, change) for name, each in tree.items()}
