"""The fields of a config: their names, now and in older versions, and the types of their values."""

import ast
import functools
import inspect
import numbers
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resnet_jax.configs import base
from resnet_jax.errors import did_you_mean


class Change(NamedTuple):
    """What became of the fields of a config with a version.

    Attributes:
      renamed: the old names of fields, such as "model.depth", and the names that they have since.
      younger: the fields that came with the version, and for each the value that runs before it behaved as. It stays
        when the default of `base` becomes another one.
      values: by the new name of a field, the old names of its values, and those that they have since.
    """

    renamed: Mapping[str, str]
    younger: Mapping[str, Any]
    values: Mapping[str, Mapping[Any, Any]]


# By version, the oldest first. Files of version 0 have no number and no checksum.
CHANGES = {
    1: Change(
        renamed={},
        younger={
            "model.zero_init_residual": False,
            "optimizer.momentum_form": "caffe",
            "optimizer.ramp_learning_rate": None,
        },
        values={},
    ),
    2: Change(
        renamed={
            "model.group_size": "model.bn_group_size",
            "model.zero_channels": "model.shortcut_padding",
            "model.stride_in": "model.bottleneck_stride",
            "model.pool_alignment": "model.stem_pool_padding",
            "stream.side": "stream.image_size",
            "stream.shorter_side": "stream.resize_size",
            "stream.color_noise": "stream.pca_lighting_std",
            "stream.damaged_share": "stream.max_corrupt_fraction",
            "stream.workers": "stream.num_workers",
            "optimizer.ramp_iterations": "optimizer.warmup_steps",
            "optimizer.ramp_learning_rate": "optimizer.warmup_start",
            "optimizer.warmup_learning_rate": "optimizer.constant_warmup",
            "train.accumulate": "train.grad_accum_steps",
            "train.bad_steps": "train.max_skipped_steps",
        },
        younger={"train.ema_decay": None},
        values={"stream.crop": {"scale": "random_scale", "area": "random_resized_crop"}},
    ),
    3: Change(
        renamed={},
        younger={
            "init.weights": None,
            "init.head": "zero",
            "init.freeze": None,
            "init.live_statistics": False,
            "optimizer.rate_factors": (),
            "train.epochs": None,
            "train.keep_best": False,
        },
        values={},
    ),
    4: Change(
        renamed={},
        younger={
            "model.padding": "zeros",
            "model.block_layers": 2,
            "model.gates": "coupled",
            "model.gate_bias": None,
        },
        values={},
    ),
}

# Fields that may be None where a run begins with weights: they are what the weights are of.
OF_WEIGHTS = (
    *(f"model.{name}" for name in ("family", "depth", "shortcut", "shortcut_padding", "bottleneck_stride")),
    *(f"model.{name}" for name in ("stem_pool_padding", "batch_norm_epsilon", "padding", "block_layers", "gates")),
    *(f"stream.{name}" for name in ("image_size", "resize_size", "interpolation", "normalization", "channel_order")),
)
# Of these "none" is a value, for it may be the name of a folder.
PATHS = ("dataset.data_dir", "init.weights")

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list of numbers"}
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A config, or a dict of dicts, as one level: values by names such as "model.depth"."""
    fields = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping | ConfigDict)
        fields |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return fields


def types() -> dict[str, tuple[type, bool]]:
    """The type of each field's values, and whether the field may be None."""
    config = base.get_config()
    found = {}
    for name, value in flat(config).items():
        section, last = section_of(config, name)
        found[name] = section.get_type(last), value is None
    return found


class Field(NamedTuple):
    """A field of a config: its full name, such as "model.depth", its value, and what `base` says of it."""

    name: str
    default: Any
    comment: str


def described(config: base.Config | None = None) -> list[Field]:
    """Every field in the order of `base`, with its value there or in a config, and the comment that stands above it.

    >>> field = described()[0]
    >>> field.name, field.default, field.comment[:31]
    ('seed', 0, 'Initial parameters, order of th')
    """
    values, comments = flat(config or base.get_config()), _comments()
    return [Field(name, values[name], comment) for name, comment in comments.items() if name in values]


@functools.cache
def _comments() -> dict[str, str]:
    """The comment above each field, and above each section, in the source of `base`: the only place where they are."""
    source = textwrap.dedent(inspect.getsource(base.get_config))
    lines, found = source.splitlines(), {}

    def visit(node: ast.Dict, prefix: str) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            assert isinstance(key, ast.Constant)
            above = key.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            comment = lines[above : key.lineno - 1]
            found[f"{prefix}{key.value}"] = " ".join(line.strip(" #") for line in comment)
            if isinstance(value, ast.Dict):
                visit(value, f"{prefix}{key.value}.")

    visit(next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict)), "")
    return found


def as_text(value: Any) -> str:
    """A value of a field as it is given on a command line."""
    if isinstance(value, list | tuple) and value:
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def section_of(config: base.Config, name: str) -> tuple[Any, str]:
    """The section of a config that holds a field, and the field's name there."""
    section, _, last = name.rpartition(".")
    return config[section] if section else config, last


def hint(name: str) -> str:
    """What somebody may mean who gives a name that no field has; or nothing."""
    for change in CHANGES.values():
        name = change.renamed.get(name, name)
    names = flat(base.get_config())
    inner = [each for each in names if each.startswith(f"{name}.")]
    if inner:
        return f"it is a section of fields, such as config.{inner[0]}; "
    return did_you_mean(name, names, "config.{}")


def fits(value: Any, kind: type) -> bool:
    """Whether a value that is no text of the command line is of the type of a field."""
    if kind is bool:
        return isinstance(value, bool)
    if kind is str:
        return isinstance(value, str | os.PathLike)
    if kind is tuple:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(each, float) for each in value)
    wanted = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, wanted) and not isinstance(value, bool)


def converted(value: Any, kind: type) -> Any:
    """A value, or its text on a command line, as a field of a type holds it.

    Raises:
      ValueError: it is of another type.
    """
    if isinstance(value, str) and kind is bool:
        value = _BOOLEANS.get(value.lower())
    elif isinstance(value, str) and kind is tuple:
        try:
            value = ast.literal_eval(value)
        except SyntaxError as error:
            raise ValueError from error
        value = value if isinstance(value, list | tuple) else (value,)
    elif isinstance(value, str):
        return kind(value)
    if not fits(value, kind):
        raise ValueError
    return os.fspath(value) if kind is str else kind(value)
