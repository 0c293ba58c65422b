"""Rounds of what is compared, in turn, and what they come to."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def in_turn(runs: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """Calls each of `runs` so many times, A B C A B C …, so that a drift of the machine's speed meets all alike.

    Returns:
      for each of them what its rounds returned, but for one that is run before.
    """
    turns = [[run() for run in runs] for _ in range(rounds + 1)]
    return [list(each) for each in zip(*turns[1:], strict=True)]


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    """{"median", "q1", "q3", "n"}, or None where a value is unknown (NaN)."""
    if np.isnan(values).any():
        return None
    q1, median, q3 = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "q1": q1, "q3": q3, "n": len(values)}


def written(values: dict[str, float] | None, digits: int) -> str:
    """A `spread` as text, "20 (15–25)"."""
    return "?" if values is None else "{median:,.{n}f} ({q1:,.{n}f}–{q3:,.{n}f})".format(**{**values, "n": digits})
