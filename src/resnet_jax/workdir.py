"""The files of a run: config.json, metrics.jsonl with TensorBoard events beside it, result.json when it is complete."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.configs import Config, base
from resnet_jax.errors import InputError, complain
from resnet_jax.events import Events
from resnet_jax.files import expanded, write_whole
from resnet_jax.hosts import flat, is_lead

# May change between two starts of one run, which comes out the same; everything else is part of what the run is.
_FREE_FIELDS = (
    "dataset.data_dir",
    "eval.batch_size",
    "mesh.data",
    "mesh.fsdp",
    "model.remat",
    "model.unroll",
    "train.bad_steps",
    "train.checkpoint_every",
    "train.eval_every",
    "train.keep_every",
    "train.keep_last",
    "train.log_every",
    "stream.damaged_share",
    "stream.workers",
)


def locate(given: str | os.PathLike[str], name: str = "the workdir") -> Path:
    """The folder of a run, which need not be there yet; see `files.expanded`.

    Raises:
      InputError: it is a file, or no folder for checkpoints by its name.
    """
    workdir = expanded(given, name)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{name} {workdir} is a file: give the name of a folder")
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        # TensorStore is told of folders as JSON.
        raise InputError(f"{name} {workdir} has a name that is no UTF-8: checkpoints cannot be kept there") from error
    return workdir


def claim(workdir: Path, config: Config) -> None:
    """Makes the workdir belong to the config, or checks that it does; of several processes the first one writes.

    Raises:
      InputError: it belongs to another config; the message names the fields that differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        if is_lead():
            workdir.mkdir(parents=True, exist_ok=True)
            write_whole(path, config.to_json_best_effort(indent=2) + "\n")
        return
    theirs, ours = (flat(json.loads(each.to_json_best_effort())) for each in (read_config(workdir), config))
    differing = [
        f"{field} ({theirs.get(field)!r} there, {ours.get(field)!r} asked for)"
        for field in sorted(theirs | ours)
        if field not in _FREE_FIELDS and theirs.get(field) != ours.get(field)
    ]
    if differing:
        raise InputError(
            f"{workdir} belongs to another config, which differs in {', '.join(differing)}: "
            "use another --workdir, or the same fields to go on with that run"
        )


def read_config(workdir: str | os.PathLike[str]) -> Config:
    """The config that a workdir belongs to.

    Raises:
      InputError: it is no workdir of a run.
    """
    workdir = expanded(workdir, "workdir")
    try:
        fields = json.loads((workdir / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{workdir} is not the workdir of a run (no readable config.json): give a folder that resnet-jax train made"
        ) from error
    # A field that is younger than the run has its default.
    config = base.get_config()
    with config.ignore_type():
        config.update(ConfigDict(fields))
    return config


def read_result(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The result of a complete run, or None."""
    path = expanded(workdir, "workdir") / "result.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged: remove it, and the same command writes it again") from error


def write_result(workdir: Path, result: Mapping[str, Any]) -> None:
    """Marks a run as complete."""
    write_whole(workdir / "result.json", json.dumps(result, indent=2) + "\n")


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a kill cut short is left out."""
    path = expanded(workdir, "workdir") / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


class MetricsLog:
    """Writes scalars to metrics.jsonl, a line for each step, and to TensorBoard; a context manager.

    Lines of steps after `step`, which a run that was killed had reached past its last checkpoint, are dropped: they
    will be written again. `say` is given a line where TensorBoard has to go without.
    """

    def __init__(self, workdir: Path, step: int, say: Callable[[str], None] = complain):
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._path = workdir / "metrics.jsonl"
        self._begin(kept)
        self._events = Events(workdir / "events", step, say)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of one step."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        self._events.write(step, scalars)

    def amend(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars to the last line, which is that of this step."""
        self._file.close()
        *before, last = read_metrics(self._path.parent)
        self._begin([*before, {**last, **scalars}])
        self._events.write(step, scalars)

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = self._path.open("a")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()
        self._file.close()
