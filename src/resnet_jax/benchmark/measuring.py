"""What all measurements share: rounds in turn, their medians and quartiles, and how these are written."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import models
from resnet_jax.analysis import summary
from resnet_jax.distributed.machine import environment_lines
from resnet_jax.errors import InputError, check_whole
from resnet_jax.models import ResNet

T = TypeVar("T")

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def network_of(model: str, shortcut: str | None, dtype: str, image_size: int | None) -> tuple[ResNet, dict[str, Any]]:
    """The network that is measured, and its costs, see `analysis.summary`.

    Raises:
      InputError: no such network or dtype, a network that is no ResNet, or an image size that cannot be.
    """
    check_choice("dtype", dtype, DTYPES)
    if image_size is not None:
        check_whole(image_size=image_size)
    try:
        network = models.create(model, shortcut=shortcut, dtype=DTYPES[dtype])
        if isinstance(network, ResNet):
            return network, summary(network, image_size)
    except ValueError as error:
        raise InputError(str(error)) from error
    raise InputError(f"{model} is a {type(network).__name__}, and only ResNets are measured")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Refuses a value that is none of the choices, by its name."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {value!r}, but it must be one of {', '.join(choices)}")


def check_several(example: str, **given: Any) -> None:
    """Refuses what is neither a list nor a tuple that holds something, by its name.

    >>> check_several("(8, 16)", batch_sizes=8)
    Traceback (most recent call last):
    resnet_jax.errors.InputError: batch_sizes is 8, but it must be a list, such as (8, 16)
    """
    for name, value in given.items():
        if not isinstance(value, list | tuple) or not value:
            raise InputError(f"{name} is {value!r}, but it must be a list, such as {example}")


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What a function returns, when it is computed, and the seconds that it took."""
    started = time.perf_counter()
    return jax.block_until_ready(make()), time.perf_counter() - started


def peak_bytes() -> int | None:
    """The most memory of the first device that this process has had in use, or None where the device does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def in_turn(runs: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """Calls each of `runs` so many times, A B C A B C …, so that a drift of the machine's speed meets all alike.

    Returns for each of them what its rounds returned, but for one that is run before.
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


def heading(result: dict[str, Any]) -> list[str]:
    """The environment and the arguments of a measurement."""
    said = (
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in result["arguments"].items()
    )
    return [*environment_lines(result["environment"]), "arguments " + " ".join(said)]
