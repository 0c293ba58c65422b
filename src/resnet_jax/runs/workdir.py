"""The folder of a run: config.json says whose it is, result.json that it is complete."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.configs.base import Config
from resnet_jax.configs.fields import as_text, flat
from resnet_jax.distributed.agreement import is_lead
from resnet_jax.errors import InputError
from resnet_jax.files import check_bucket, expanded, write_whole
from resnet_jax.runs import config_file, length

# May change between two starts of one run, which comes out the same; everything else is part of what the run is.
FREE_FIELDS = (
    "dataset.data_dir",
    "eval.batch_size",
    "mesh.data",
    "mesh.fsdp",
    "model.remat",
    "model.unroll",
    "train.max_skipped_steps",
    "train.checkpoint_every",
    "train.eval_every",
    "train.keep_best",
    "train.keep_every",
    "train.keep_last",
    "train.log_every",
    "stream.max_corrupt_fraction",
    "stream.num_workers",
)


def locate(given: str | os.PathLike[str], name: str = "the workdir") -> Path:
    """The folder of a run, which need not be there yet, on a disk or in a bucket; see `files.expanded`.

    Raises:
      InputError: it is a file, or no folder for checkpoints by its name, or its bucket cannot be used.
    """
    workdir = expanded(given, name, remote=True)
    check_bucket(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{name} {workdir} is a file: give the name of a folder")
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        # TensorStore is told of folders as JSON.
        raise InputError(f"{name} {workdir} has a name that is no UTF-8: checkpoints cannot be kept there") from error
    return workdir


def claim(workdir: Path, config: Config) -> Config:
    """Makes the workdir belong to the config, or checks that it does; of several processes the first one writes.

    The file stays as the run's first start wrote it: fields that may change between two starts hold for a start only.
    Whether the run may get another length `length.change` says, which wants to know how far it has come.

    Returns:
      The config of the workdir, which is the given one but for the fields that may change.

    Raises:
      InputError: it belongs to another config; the message names the fields that differ. Or see `config_file`.
    """
    if not (workdir / "config.json").exists():
        write_config(workdir, config)
        return config
    found = read_config(workdir)
    theirs, ours = (flat(json.loads(each.to_json_best_effort())) for each in (found, config))
    differing = [
        f"{field} ({as_text(theirs.get(field))} there, {as_text(ours.get(field))} asked for)"
        for field in sorted(theirs | ours)
        if field not in (*FREE_FIELDS, *length.FIELDS) and theirs.get(field) != ours.get(field)
    ]
    if differing:
        raise InputError(
            f"{workdir} belongs to another config, which differs in {', '.join(differing)}: "
            "use another workdir, or the same fields to go on with that run"
        )
    return found


def identity(config: Config) -> int:
    """A checksum of what a run is: of all fields but those that may change between its starts, and its length."""
    fields = flat(json.loads(config.to_json_best_effort()))
    return config_file.checksum({name: fields[name] for name in fields.keys() - {*FREE_FIELDS, *length.FIELDS}})


def lengthen(workdir: Path, theirs: Config, ours: Config) -> None:
    """Gives the run in a workdir, of the config `theirs`, the length of `ours`; see `length.change`."""
    config, fields = theirs.copy_and_resolve_references(), flat(ours)
    with config.ignore_type():
        config.update_from_flattened_dict({field: fields[field] for field in length.FIELDS})
    write_config(workdir, config)


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a workdir, whole or not."""
    return sorted(int(each.name) for each in workdir.glob("checkpoints/*") if each.name.isdecimal() and each.is_dir())


def write_config(workdir: Path, config: Config) -> None:
    """Writes config.json; of several processes the first one does."""
    text = config_file.write_text(config)
    if is_lead():
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(workdir / "config.json", text)


def read_config(workdir: str | os.PathLike[str]) -> Config:
    """The config of a workdir.

    Raises:
      InputError: it is no workdir of a run, or its config.json cannot be used; see `config_file.parse_text`.
    """
    workdir = expanded(workdir, "workdir", remote=True)
    try:
        text = (workdir / "config.json").read_bytes()
    except OSError as error:
        raise InputError(
            f"{workdir} is not the workdir of a run (no readable config.json): give a folder that resnet-jax train made"
        ) from error
    return config_file.parse_text(text, workdir / "config.json")


def read_result(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The result of a complete run, or None; raises InputError where it is damaged."""
    path = expanded(workdir, "workdir", remote=True) / "result.json"
    if not path.exists():
        return None
    damaged = InputError(f"{path} is damaged: remove it, and the same command writes it again")
    try:
        result = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no text at all
        raise damaged from error
    if not isinstance(result, dict) or "step" not in result:
        raise damaged
    split = result.get("split", "test")
    if not {f"{split}_error", f"{split}_loss"} & result.keys():
        raise damaged
    if result.pop("checksum", None) not in (None, _checksum(result)):  # older results have none
        raise damaged
    return result


def complete_result(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """As `read_result`, but None for the result of a run that has since become longer, and is not complete."""
    result = read_result(workdir)
    if result is None or not (expanded(workdir, "workdir", remote=True) / "config.json").exists():
        return result
    return result if result["step"] >= read_config(workdir).train.iterations else None


def write_result(workdir: Path, result: Mapping[str, Any]) -> None:
    """Marks a run as complete."""
    write_whole(workdir / "result.json", json.dumps({**result, "checksum": _checksum(result)}, indent=2) + "\n")


def _checksum(result: Mapping[str, Any]) -> int:
    """Of all but the times and the machine, in which two equal runs differ."""
    return config_file.checksum(
        {name: value for name, value in result.items() if name not in ("training_seconds", "environment")}
    )
