"""The files of a run: config.json, metrics.jsonl with TensorBoard events beside it, result.json when it is complete."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_jax import config_file
from resnet_jax.configs import Config
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

    The file stays as the run's first start wrote it: fields that may change between two starts hold for a start only.

    Raises:
      InputError: it belongs to another config; the message names the fields that differ. Or see `config_file`.
    """
    path = workdir / "config.json"
    if not path.exists():
        text = config_file.write_text(config)
        if is_lead():
            workdir.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
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
            "use another --workdir, or the same fields to go on with that run (none for None)"
        )


def read_config(workdir: str | os.PathLike[str]) -> Config:
    """The config that a workdir belongs to.

    Raises:
      InputError: it is no workdir of a run, or its config.json cannot be used; see `config_file.parse_text`.
    """
    workdir = expanded(workdir, "workdir")
    try:
        text = (workdir / "config.json").read_bytes()
    except OSError as error:
        raise InputError(
            f"{workdir} is not the workdir of a run (no readable config.json): give a folder that resnet-jax train made"
        ) from error
    return config_file.parse_text(text, workdir / "config.json")


def read_result(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The result of a complete run, or None.

    Raises:
      InputError: the file is damaged.
    """
    path = expanded(workdir, "workdir") / "result.json"
    if not path.exists():
        return None
    damaged = InputError(f"{path} is damaged: remove it, and the same command writes it again")
    try:
        result = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no text at all
        raise damaged from error
    if not isinstance(result, dict) or not {"step", f"{result.get('split', 'test')}_error"} <= result.keys():
        raise damaged
    # One that is older than the checksum has none.
    if result.pop("checksum", None) not in (None, _checksum(result)):
        raise damaged
    return result


def write_result(workdir: Path, result: Mapping[str, Any]) -> None:
    """Marks a run as complete."""
    write_whole(workdir / "result.json", json.dumps({**result, "checksum": _checksum(result)}, indent=2) + "\n")


def _checksum(result: Mapping[str, Any]) -> int:
    """Of all but the times and the machine, in which two equal runs differ."""
    return config_file.checksum(
        {name: value for name, value in result.items() if name not in ("training_seconds", "environment")}
    )


def read_metrics(workdir: str | os.PathLike[str], say: Callable[[str], None] = complain) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last one that a kill cut short is left out, and so are damaged ones.

    Args:
      workdir: of the run.
      say: is given a line about damaged ones.
    """
    path = expanded(workdir, "workdir") / "metrics.jsonl"
    *whole, _ = (path.read_bytes() if path.exists() else b"").split(b"\n")
    lines, damaged = [], []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text.decode())
        except ValueError:
            line = None
        if isinstance(line, dict) and type(line.get("step")) is int and all(map(_is_number, line.values())):
            lines.append(line)
        else:
            damaged.append(str(number))
    if damaged:
        say(f"{path}: line {', '.join(damaged)} is damaged and left out")
    return lines


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


class MetricsLog:
    """Writes scalars to metrics.jsonl, a line for each step, and to TensorBoard; a context manager.

    Lines of steps after `step`, which a run that was killed had reached past its last checkpoint, are dropped: they
    will be written again. Damaged ones are dropped too, which `say` is told, and also where TensorBoard
    has to go without.
    """

    def __init__(self, workdir: Path, step: int, say: Callable[[str], None] = complain):
        # Damaged lines are said here, once: the file is written without them.
        kept = [line for line in read_metrics(workdir, say) if line["step"] <= step]
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
