"""One run for each point of a grid of config fields, and a table of what came out."""

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_jax import build
from resnet_jax.configs import Config
from resnet_jax.errors import InputError
from resnet_jax.files import write_whole
from resnet_jax.training.loop import train

Point = dict[str, str]


def points(axes: Sequence[str]) -> list[Point]:
    """The product of axes such as "model.depth=20,32" and "seed=0,1", the last one varying fastest.

    Raises:
      InputError: an axis that is not of that form, or given twice.
    """
    grid: dict[str, list[str]] = {}
    for axis in axes:
        field, equals, values = axis.partition("=")
        if not equals or not field or not all(values.split(",")):
            raise InputError(f"--axis={axis!r} is not of the form FIELD=VALUE,VALUE,… such as model.depth=20,32,44")
        if field in grid:
            raise InputError(f"the axis {field} is given twice: give its values in one --axis")
        grid[field] = values.split(",")
    if not grid:
        raise InputError("a sweep needs at least one --axis=FIELD=VALUE,VALUE,…")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def sweep(make_config: Callable[[Point], Config], axes: Sequence[str], directory: Path) -> list[dict[str, Any]]:
    """Trains every point of a grid, one after another, each in a folder of its own; skips those that are complete.

    Args:
      make_config: the config of a point; raises InputError for a field or value that does not exist.
      axes: see `points`.
      directory: holds a folder such as "model.depth=20,seed=0" for each point, and results.json at the end.

    Returns:
      For each combination of the axes other than seed: "point", and "errors", one for each seed, with their
      "mean" and "std" (of the sample; None for a single seed).
    """
    console = Console(soft_wrap=True, highlight=False)
    grid = points(axes)
    configs = [make_config(point) for point in grid]
    for config in configs:  # All of them first: a mistyped value shows before hours of training.
        build.check(config)
    results = []
    for i, (point, config) in enumerate(zip(grid, configs, strict=True)):
        name = ",".join(f"{field}={value}" for field, value in point.items())
        console.rule(f"point {i + 1} of {len(grid)}: {name}")
        results.append(train(config, directory / name))
    rows = summarise(grid, results)
    write_whole(directory / "results.json", json.dumps(rows, indent=2) + "\n")
    console.print(table(rows))
    return rows


def summarise(grid: Sequence[Point], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups the results of points that differ in nothing but their seed; see `sweep`."""
    groups: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for point, result in zip(grid, results, strict=True):
        key = tuple((field, value) for field, value in point.items() if field != "seed")
        groups.setdefault(key, []).append(result[f"{result.get('split', 'test')}_error"])
    return [
        {
            "point": dict(key),
            "errors": errors,
            "mean": statistics.fmean(errors),
            "std": statistics.stdev(errors) if len(errors) > 1 else None,
        }
        for key, errors in groups.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of `summarise` as a table, errors in percent."""
    fields = list(rows[0]["point"])
    result = Table(*fields, "runs", "error, mean ± std (%)", title="final iteration, never the best one")
    for row in rows:
        spread = "" if row["std"] is None else f" ± {100 * row['std']:.2f}"
        result.add_row(*row["point"].values(), str(len(row["errors"])), f"{100 * row['mean']:.2f}{spread}")
    return result
