"""config.json: the fields of a run's config, with the version of their names and a checksum."""

import difflib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.distributed.agreement import flat
from resnet_jax.errors import InputError


class Change(NamedTuple):
    """What became of the fields of a config with a version.

    Attributes:
      renamed: the old names of fields, such as "model.depth", and the names that they have since.
      younger: the fields that came with the version, and for each the value that runs before it behaved as. It stays
        when the default of `configs.base` becomes another one.
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
        younger={},
        values={"stream.crop": {"scale": "random_scale", "area": "random_resized_crop"}},
    ),
}
VERSION = max(CHANGES)


_MEND = (
    "put a copy of it back, or remove it and start the resnet-jax train command that began the run again, which writes "
    "it anew and goes on"
)
_CALLED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list of numbers"}


def write_text(config: Config) -> str:
    """The text of config.json.

    Raises:
      InputError: the config has a field that `configs.base` lacks, or a value of another type.
    """
    fields = json.loads(config.to_json_best_effort())
    _check("the config", flat(fields))
    fields = {"version": VERSION, **fields}
    return json.dumps({"checksum": checksum(fields), **fields}, indent=2) + "\n"


def parse_text(text: bytes, path: Path) -> Config:
    """The config that a text of `write_text` holds, of this version or of one before; `path` is for messages.

    A field that is younger than the text has the value that runs behaved as then (see `Change`).

    Raises:
      InputError: it is damaged or was edited, holds an unknown field or a value of another type, or a newer version
        wrote it.
    """
    try:
        fields = json.loads(text)
    except ValueError:  # no JSON, or no text at all
        fields = None
    if not isinstance(fields, dict):
        raise InputError(f"{path.parent} has no readable config.json, for it is damaged: {_MEND}")
    saved = fields.pop("checksum", None)
    found = checksum(fields)
    version = fields.pop("version", 0)
    if type(version) is not int or version < 0:
        raise InputError(f"{path} holds the version {version!r}, but it must be a number such as {VERSION}: {_MEND}")
    if version > VERSION:
        raise InputError(
            f"{path} is of version {version}, made by a newer resnet_jax, and this one reads versions up to {VERSION}: "
            "update it"
        )
    known = flat(fields)
    for number, change in CHANGES.items():
        if number > version:
            known = {change.renamed.get(name, name): value for name, value in known.items()}
            for name, renamed in change.values.items():
                if isinstance(known.get(name), str):
                    known[name] = renamed.get(known[name], known[name])
            known = {**change.younger, **known}
    _check(str(path), known)
    if saved not in (None, found):
        raise InputError(
            f"{path} is damaged or was edited, for its checksum is not that of its fields: {_MEND}; "
            'to keep an edit, remove its line "checksum"'
        )
    config = base.get_config()
    with config.ignore_type():
        config.update_from_flattened_dict(known)
    return config


def checksum(fields: Mapping[str, Any]) -> int:
    """CRC-32 of JSON fields, whatever their order and the spaces between them."""
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _check(what: str, fields: Mapping[str, Any]) -> None:
    """Refuses names and types that no config has; `what` holds the fields."""
    config = base.get_config()
    defaults = flat(json.loads(config.to_json_best_effort()))
    renamed = {old: new for change in CHANGES.values() for old, new in change.renamed.items()}
    for name, value in fields.items():
        if name not in defaults:
            close = [renamed[name]] if name in renamed else difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean config.{close[0]}? " if close else ""
            raise InputError(
                f"{what} holds config.{name}, which is no field of this resnet_jax: {hint}"
                "remove it, or use the version that knows it"
            )
        *parents, last = name.split(".")
        section: Any = config
        for parent in parents:
            section = section[parent]
        wanted = section.get_type(last)
        if not (_fits(value, wanted) or (value is None and defaults[name] is None)):
            raise InputError(f"{what} holds config.{name}={value!r}, but it must be {_CALLED[wanted]}")


def _fits(value: Any, wanted: type) -> bool:
    if wanted is tuple:
        return isinstance(value, list) and all(type(each) in (int, float) for each in value)
    return type(value) in {float: (int, float)}.get(wanted, (wanted,))
