"""config.json: the fields of a run's config, with the version of their names and a checksum."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.configs.fields import CHANGES, KINDS, OF_WEIGHTS, fits, flat, hint, types
from resnet_jax.distributed import agreement
from resnet_jax.errors import InputError

VERSION = max(CHANGES)

_MEND = (
    "put a copy of it back, or remove it and start the resnet-jax train command that began the run again, which writes "
    "it anew and goes on"
)


def write_text(config: Config) -> str:
    """The text of config.json; raises InputError for a field that `configs.base` lacks, or a value of another type."""
    fields = json.loads(config.to_json_best_effort())
    _check("the config", flat(fields), OF_WEIGHTS)
    fields = {"version": VERSION, **fields}
    return json.dumps({"checksum": checksum(fields), **fields}, indent=2) + "\n"


def parse_text(text: bytes, path: Path) -> Config:
    """The config that a text of `write_text` holds, of this version or of one before; `path` is for messages.

    A field that is younger than the text has the value that runs behaved as then (see `configs.fields.Change`).

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


def check_same(config: Config) -> None:
    """Refuses a run whose processes have different configs, but for the fields that each host may have to itself.

    The InputError names the fields that differ; `agreement.exchange` may raise others.
    """
    own = ("dataset.data_dir", "stream.num_workers")
    facts = {f"config.{name}": value for name, value in flat(config.to_dict()).items() if name not in own}
    agreement.check_same("configs", facts, "start all of them with the same command")


def checksum(fields: Mapping[str, Any]) -> int:
    """CRC-32 of JSON fields, whatever their order and the spaces between them."""
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _check(what: str, fields: Mapping[str, Any], unresolved: Sequence[str] = ()) -> None:
    """Refuses names and types that no config has; `what` holds the fields, and those `unresolved` may be None."""
    known = types()
    for name, value in fields.items():
        if name not in known:
            raise InputError(
                f"{what} holds config.{name}, which is no field of this resnet_jax: {hint(name)}"
                "remove it, or use the version that knows it"
            )
        kind, optional = known[name]
        if not (optional or name in unresolved if value is None else fits(value, kind)):
            raise InputError(f"{what} holds config.{name}={value!r}, but it must be {KINDS[kind]}")
