"""The scalars of a run: metrics.jsonl, and the same for TensorBoard. This file alone knows tensorboardX."""

import contextlib
import functools
import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from resnet_jax.errors import optional, warn
from resnet_jax.files import appended, expanded, is_remote, put, write_whole
from resnet_jax.runs.workdir import complete_result

# All that two equal runs differ in.
TIMES = ("seconds", "images_per_second")


def read_metrics(workdir: str | os.PathLike[str], log: Callable[[str], None] = warn) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl; `log` is told of damaged ones, which are left out.

    A last line without an end is no damage: a kill cut it short.
    """
    path = expanded(workdir, "workdir", remote=True) / "metrics.jsonl"
    *whole, _ = (path.read_bytes() if path.exists() else b"").split(b"\n")
    lines, damaged = [], []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text.decode())
        except ValueError:
            line = None
        if isinstance(line, dict) and type(line.get("step")) is int and {*map(type, line.values())} <= {int, float}:
            lines.append(line)
        else:
            damaged.append(str(number))
    if damaged:
        log(f"{path}: line {', '.join(damaged)} is damaged and left out")
    return lines


def write_metrics(workdir: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes metrics.jsonl anew, with a line for each step."""
    write_whole(workdir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def follow_metrics(workdir: str | os.PathLike[str], seconds: float = 1.0) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl as they come, and those that are there; ends when the run is complete.

    A step's line comes again where it has changed: its evaluation was made later, or the run was stopped and has come
    to the step again with other figures. The workdir need not be there yet. So other libraries can watch a run, in a
    process or a thread beside it; for MLflow the line is `mlflow.log_metrics(line, step=line["step"])`:

    >>> import wandb  # doctest: +SKIP
    >>> import resnet_jax as rj
    >>> with wandb.init(project="resnets", name="cifar10-56") as watched:  # doctest: +SKIP
    ...     for line in rj.runs.follow_metrics("runs/cifar10-56"):
    ...         watched.log(line, step=line["step"])

    Args:
      workdir: of the run.
      seconds: between two looks at the file.
    """
    workdir = expanded(workdir, "workdir", remote=True)
    path, seen, before = workdir / "metrics.jsonl", {}, None
    while True:
        complete = complete_result(workdir) is not None  # asked before reading
        found = path.stat() if path.exists() else None
        state = found and (found.st_ino, found.st_size, found.st_mtime_ns)
        if state != before:
            before = state
            for line in read_metrics(workdir, lambda said: None):
                # Of two equal lines the times differ.
                figures = {name: value for name, value in line.items() if name not in TIMES}
                if seen.get(line["step"]) != figures:
                    seen[line["step"]] = figures
                    yield line
        if complete:
            return
        time.sleep(seconds)


def better(best: dict[str, Any] | None, line: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation with the lesser validation error of the best one so far and that of a line, if it has one.

    Of a task that has no error it is the loss. Of two equal ones the first is the best.

    >>> import functools
    >>> lines = [{"step": 1, "validation_error": 0.5}, {"step": 2}, {"step": 3, "validation_error": 0.2}]
    >>> functools.reduce(better, lines, None)
    {'step': 3, 'validation_error': 0.2}
    """
    field = "validation_error" if "validation_error" in line else "validation_loss"
    if field not in line or (best is not None and not line[field] < best[field]):
        return best
    return {"step": line["step"], field: line[field]}


def best_of(
    lines: Sequence[Mapping[str, Any]], kept: Collection[int], log: Callable[[str], None]
) -> dict[str, Any] | None:
    """The best evaluation, as by `better`, of those whose step has a checkpoint; `log` is told of a better one that has
    none, as where a run did not keep its best one from the beginning.

    >>> lines = [{"step": step, "validation_error": error} for step, error in ((1, 0.2), (2, 0.5), (3, 0.3))]
    >>> best_of(lines, [2, 3], print)
    the least validation error was that of iteration 1, whose checkpoint was not kept: of those kept it is iteration 3's
    {'step': 3, 'validation_error': 0.3}
    """
    best = functools.reduce(better, (line for line in lines if line["step"] in kept), None)
    least = functools.reduce(better, lines, None)
    if least is not None and least != best:
        step, instead = least["step"], "none of those kept has one"
        if best is not None:
            instead = f"of those kept it is iteration {best['step']}'s"
        what = "error" if "validation_error" in least else "loss"
        log(f"the least validation {what} was that of iteration {step}, whose checkpoint was not kept: {instead}")
    return best


class MetricsLog:
    """Writes scalars to metrics.jsonl, a line for each step, and to TensorBoard; a context manager.

    Lines after `step`, the last checkpoint's, are dropped, for they will be written again, and so are damaged ones.
    """

    def __init__(self, workdir: Path, step: int, log: Callable[[str], None] = warn):
        kept = [line for line in read_metrics(workdir, log) if line["step"] <= step]
        self._path = workdir / "metrics.jsonl"
        self._begin(kept)
        self._events = Events(workdir / "events", step, log)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of one step."""
        self._file.write((json.dumps({"step": step, **scalars}) + "\n").encode())
        self._file.flush()
        self._events.write(step, scalars)

    def put(self) -> None:
        """Sees to it that all of it is in the workdir, where that is in a bucket; a disk has each line at once."""
        with ThreadPoolExecutor(1) as beside:  # the loop waits for both, and for one request after another else
            events = beside.submit(self._events.put)
            put(self._file)
        events.result()

    def amend(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars to the last line, which is that of this step."""
        self._file.close()
        *before, last = read_metrics(self._path.parent)
        self._begin([*before, {**last, **scalars}])
        self._events.write(step, scalars)

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        write_metrics(self._path.parent, lines)
        self._file = appended(self._path)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()
        self._file.close()


class Events:
    """Writes scalars to a folder for TensorBoard, which forgets those after `step`.

    Where that fails it says so once and writes no more: no run waits for it.
    """

    def __init__(self, folder: Path, step: int, log: Callable[[str], None] = warn):
        self._folder, self._log = folder, log
        self._writer: Any = None
        self._file: IO[bytes] | None = None  # of a bucket
        with self._optional():
            # Its SummaryWriter writes from a thread, which would tell of a full disk with a traceback.
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import register_writer_factory

            self._messages: Any = event_pb2  # made at run time, where no type checker sees them

            folder.mkdir(exist_ok=True)
            if is_remote(folder):
                # Its own writers for these would send the whole file again for each line.
                factory = types.SimpleNamespace(open=self._open, directory_check=lambda path: None)
                register_writer_factory(str(folder).partition(":")[0], factory)
            writer = EventsWriter(str(folder.absolute() / "events"))
            start = self._messages.SessionLog(status=self._messages.SessionLog.START)
            writer.write_event(self._messages.Event(wall_time=time.time(), step=step + 1, session_log=start))
            self._writer = writer

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with self._optional():
            from tensorboardX.summary import scalar

            for name, value in scalars.items():
                event = self._messages.Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                writer.write_event(event)
            writer.flush()
            self._writer = writer

    def _open(self, name: str) -> IO[bytes]:
        self._file = appended(expanded(name, remote=True))
        return self._file

    def put(self) -> None:
        if self._writer is not None and self._file is not None:
            with self._optional():
                put(self._file)

    def close(self) -> None:
        if self._writer is not None:
            with self._optional():
                self._writer.close()

    def _optional(self) -> contextlib.AbstractContextManager[None]:
        return optional(f"the rest of {self._folder} for TensorBoard", self._log)


def import_without_torch() -> None:
    """Imports tensorboardX without PyTorch, which would take two seconds: for the command line.

    Meanwhile nothing in this process can import PyTorch, and its tensorboardX stays without it.
    """
    if "torch" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    try:
        with contextlib.suppress(Exception):  # `Events` says what is wrong with it
            importlib.import_module("tensorboardX")
    finally:
        del sys.modules["torch"]
