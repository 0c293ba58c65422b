"""Metrics by name: each is a total and what it is divided by, so that those of parts are added up to those of all."""

from typing import TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Integer


@flax.struct.dataclass
class Mean:
    """A mean that can be added to: `float` is total / count, over all steps where those are stacked.

    Attributes:
      total: a sum over examples, float32 scalar, or one for each step.
      count: what the total is divided by, such as the number of examples; of the same shape.

    Example:
      >>> float(Mean(jnp.float32(3), jnp.float32(4)) + Mean(jnp.float32(0), jnp.float32(2)))
      0.5
    """

    total: jax.Array | np.ndarray
    count: jax.Array | np.ndarray

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def __repr__(self) -> str:
        try:
            return f"Mean({float(self):.6g})"
        except (AttributeError, RuntimeError, TypeError):  # traced, deleted, or a shape
            return f"Mean(total={self.total!r}, count={self.count!r})"

    def __float__(self) -> float:
        return float(self.total.sum() / self.count.sum())


# By name; those of a training step always have "loss".
Metrics: TypeAlias = dict[str, Mean]


def top_k_errors(
    logits: Float[Array, "batch classes"], labels: Integer[Array | np.ndarray, " batch"], k: int
) -> Float32[Array, " batch"]:
    """1 for each example whose label is not among its k largest logits, else 0.

    Of equal logits the first ones count as the larger ones, as `argmax` has it.
    """
    if k == 1:
        return (logits.argmax(-1) != labels).astype(jnp.float32)
    _, largest = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return (largest != labels[:, None]).all(-1).astype(jnp.float32)
