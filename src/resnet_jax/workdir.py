"""The files of a run: config.json, metrics.jsonl with TensorBoard events beside it, result.json when it is complete."""

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.configs import Config, base
from resnet_jax.errors import InputError
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
    will be written again.
    """

    def __init__(self, workdir: Path, step: int):
        _import_tensorboardx()
        # Its SummaryWriter writes from a thread, which would tell of a full disk with a traceback and go on.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._path = workdir / "metrics.jsonl"
        self._begin(kept)
        (workdir / "events").mkdir(exist_ok=True)
        self._events = EventsWriter(str(workdir / "events" / "events"))
        # TensorBoard forgets the steps that will be written again.
        self._events.write_event(
            Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of one step."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        self._write_events(step, scalars)

    def amend(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars to the last line, which is that of this step."""
        self._file.close()
        *before, last = read_metrics(self._path.parent)
        self._begin([*before, {**last, **scalars}])
        self._write_events(step, scalars)

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = self._path.open("a")

    def _write_events(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._events.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._events.close()
        finally:
            self._file.close()


def _import_tensorboardx() -> None:
    """Imports tensorboardX without PyTorch, which where there is one takes two seconds and is nothing to scalars."""
    wanted = "torch" in sys.modules
    if not wanted:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        importlib.import_module("tensorboardX")
    finally:
        if not wanted:
            del sys.modules["torch"]
