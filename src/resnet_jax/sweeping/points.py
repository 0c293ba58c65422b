"""The points of a sweep: values of config fields, from the axes that the command line gives."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from resnet_jax.errors import InputError

# Config fields such as "model.depth" and their values as they stand on the command line.
Point = dict[str, str]


@dataclass(frozen=True)
class Range:
    """Numbers that a search may draw, both ends included, whole ones if the ends are; with `log` by equal ratios."""

    low: float
    high: float
    log: bool


Axes = dict[str, list[str] | Range]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")


def parse_axes(axes: Sequence[str]) -> Axes:
    """Reads axes such as "model.depth=20,32" and "optimizer.learning_rate=0.01..1:log".

    Raises:
      InputError: an axis that is not of that form, or given twice; a range without numbers in it.
    """
    parsed: Axes = {}
    for axis in axes:
        field, _, text = axis.partition("=")
        values = text.split(",")
        if not field or not all(values):
            raise InputError(f"--axis={axis!r} is not of the form FIELD=VALUE,VALUE,… such as model.depth=20,32,44")
        if field in parsed:
            raise InputError(f"the axis {field} is given twice: give its values in one --axis")
        parsed[field] = values
        if match := _RANGE.fullmatch(text):
            kind = int if all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups()[:2]) else float
            low, high, log = kind(match[1]), kind(match[2]), bool(match[3])
            if not low < high or (log and low <= 0):
                above = " and both are above 0" if log else ""
                raise InputError(f"--axis={axis!r} is no range: the first number is less than the second{above}")
            parsed[field] = Range(low, high, log)
    if not parsed:
        raise InputError("a sweep needs at least one --axis=FIELD=VALUE,VALUE,…")
    return parsed


def grid(axes: Axes, combine: str) -> list[Point]:
    """The points of axes of values.

    `combine` is "product", every value with every other one, the last axis varying fastest; or "zip", the first values
    of all axes together, then the second ones, and so on.

    Raises:
      InputError: a range, which only a search can use; axes of different lengths for "zip"; the same point twice.
    """
    lists: dict[str, list[str]] = {}
    for field, values in axes.items():
        if isinstance(values, Range):
            raise InputError(f"the axis {field} is a range: list its values, or search it with --searcher=optuna")
        lists[field] = values
    if combine == "zip" and len(set(map(len, lists.values()))) > 1:
        lengths = ", ".join(f"{field} has {len(values)}" for field, values in lists.items())
        raise InputError(f"--combine=zip needs axes with equally many values, but {lengths}")
    tuples = zip(*lists.values(), strict=True) if combine == "zip" else itertools.product(*lists.values())
    points = {}
    for values in tuples:
        point = dict(zip(lists, values, strict=True))
        name = point_name(point)
        if name in points:
            raise InputError(f"the point {name} is there twice: give each value of an axis once")
        points[name] = point
    return list(points.values())


def corners(axes: Axes) -> list[Point]:
    """Points that have every value of every axis, and both ends of every range, at least once."""
    values = {
        field: [str(each.low), str(each.high)] if isinstance(each, Range) else each for field, each in axes.items()
    }
    first = {field: each[0] for field, each in values.items()}
    return [first, *(first | {field: value} for field, each in values.items() for value in each[1:])]


def point_name(point: Point) -> str:
    """The name of a point's folder, such as "model.depth=20,seed=0"."""
    return ",".join(f"{field}={value}" for field, value in point.items())
