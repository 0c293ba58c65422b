"""The runs below a folder, side by side: what each is of, how far it is and how well it does."""

import dataclasses
import datetime
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resnet_jax.configs.fields import as_text, flat
from resnet_jax.errors import InputError, printable
from resnet_jax.files import expanded, is_remote, sizes
from resnet_jax.runs import terminal, workdir
from resnet_jax.runs.metrics_log import read_metrics

T = TypeVar("T")

# A run is a folder that holds one of these; of its own folders none holds a run.
_FILES, _INSIDE = ("config.json", "metrics.jsonl", "result.json"), ("checkpoints", "events", "compilation_cache")
# Fields that have columns of their own, or that may change within a run.
_SHOWN = ("model.family", "model.depth", "dataset.name", "train.iterations", *workdir.FREE_FIELDS)


@dataclass(frozen=True)
class ListedRun:
    """What the files of a workdir say of its run; None where they do not.

    Attributes:
      workdir: its folder.
      state: "complete", "unfinished", whether or not it is at work; "weights" where `convert` made it; "damaged".
      problems: a line about each damaged file.
      network, dataset: such as "cifar_resnet20" and "digits".
      step, iterations: done, and to be done.
      errors: as shares, the last ones by split: "train", "validation", "test".
      parameters: of the network, of a complete run.
      seconds: of training.
      changed: when a file of it was last written.
      fields: of its config, by name.
      metrics: the lines of metrics.jsonl.
    """

    workdir: Path
    state: str
    problems: list[str]
    network: str | None
    dataset: str | None
    step: int
    iterations: int | None
    errors: dict[str, float]
    parameters: int | None
    seconds: float
    changed: datetime.datetime
    fields: dict[str, Any]
    metrics: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """All but the metrics, as JSON has it."""
        found = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "metrics"}
        return found | {"workdir": str(self.workdir), "changed": self.changed.isoformat(timespec="seconds")}


def list_runs(*directories: str | os.PathLike[str]) -> list[ListedRun]:
    """The runs in folders, by default "runs", and in all folders below them, by name with numbers in their order.

    A damaged or half written run is in the list, and says what is wrong with it.

    Raises:
      InputError: a folder does not exist, or there is no run below any of them.

    Example:
      >>> import resnet_jax as rj
      >>> for run in rj.runs.list_runs("runs"):  # doctest: +SKIP
      ...     print(run.workdir, run.state, run.errors.get("test"))
    """
    places = [expanded(each, "the folder of runs", remote=True) for each in directories or ("runs",)]
    for place in places:
        if not place.is_dir():
            raise InputError(f"there is no folder {place}: give one below which there are runs")
    paths = {path.resolve(): path for place in places for path in sorted(_workdirs(place), key=_natural)}
    found = [run for run in map(_read, paths.values()) if _is_of_a_run(run)]
    if not found:
        raise InputError(f"there is no run in or below {', '.join(map(str, places))}: resnet-jax train makes some")
    return found


def _workdirs(place: Path) -> Iterator[Path]:
    if is_remote(place):
        found = {(place / name).parent for name in sizes(place) if name.rpartition("/")[2] in _FILES}
        yield from (folder for folder in found if not {*_INSIDE} & {*folder.relative_to(place).parts})
        return
    seen: set[str] = set()
    for folder, inside, files in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        inside[:] = [] if real in seen else [name for name in inside if name not in _INSIDE]
        if real not in seen and set(_FILES) & set(files):
            yield Path(folder)
        seen.add(real)


def _is_of_a_run(found: ListedRun) -> bool:
    """A config.json alone that cannot be read may be that of anything, and a result.json alone that of `evaluate`."""
    files = [name for name in _FILES if (found.workdir / name).exists()]
    return bool(found.fields or found.step) or "metrics.jsonl" in files or len(files) > 1


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(each), "") if each.isdecimal() else (-1, each) for each in re.split(r"(\d+)", str(path))]


def _read(directory: Path) -> ListedRun:
    problems: list[str] = []

    def attempt(read: Callable[[], T], nothing: T) -> T:
        try:
            return read()
        except (InputError, OSError) as error:
            problems.append(str(error))
            return nothing

    fields = attempt(lambda: flat(workdir.read_config(directory).to_dict()), {})
    # Whether a result is that of the whole run its config says, and what is wrong with the config is said already.
    result = attempt(lambda: (workdir.complete_result if fields else workdir.read_result)(directory), None) or {}
    damaged = bool(problems)
    metrics = attempt(lambda: read_metrics(directory, problems.append), [])
    errors = {}
    for line in (*metrics, {name: result[name] for name in result if isinstance(result[name], int | float)}):
        errors |= {name.removesuffix("_error"): line[name] for name in line if name.endswith("_error")}
    steps = [int(path.name) for path in directory.glob("checkpoints/*") if path.name.isdecimal()]
    step = int(result["step"]) if result else metrics[-1]["step"] if metrics else max(steps, default=0)
    state = "damaged" if damaged else "complete" if result else "weights" if steps == [0] else "unfinished"
    written = [path.stat().st_mtime for path in directory.glob("*.json*") if path.name in _FILES]
    return ListedRun(
        workdir=directory,
        state=state,
        problems=problems,
        network=f"{fields['model.family']}{fields['model.depth']}" if fields else None,
        dataset=fields.get("dataset.name"),
        step=step,
        iterations=fields.get("train.iterations"),
        errors=errors,
        parameters=result.get("parameters"),
        seconds=result.get("training_seconds") or sum(line.get("seconds", 0) for line in metrics),
        changed=datetime.datetime.fromtimestamp(max(written, default=0)).astimezone(),
        fields=fields,
        metrics=metrics,
    )


def differing(runs: Iterable[ListedRun]) -> list[str]:
    """The fields in which the configs of trained runs differ, but for those that a table shows or that may always
    differ. Those of given weights trained nothing.
    """
    known = [run.fields for run in runs if run.fields and run.state != "weights"]
    names = {name: None for fields in known for name in fields if name not in _SHOWN}
    return [name for name in names if any(fields.get(name) != known[0].get(name) for fields in known)]


def as_table(runs: Sequence[ListedRun], names: Mapping[Path, str]) -> str:
    """Runs as a table that the terminal has space for, in what their configs differ, and what is wrong with which."""
    fields, splits = differing(runs), [s for s in ("train", "validation", "test") if any(s in r.errors for r in runs)]
    rows = []
    for run in runs:
        total = "" if run.iterations in (None, run.step) or run.state == "weights" else f" of {run.iterations:,}"
        errors = [f"{run.errors[split]:.2%}" if split in run.errors else "" for split in splits]
        cells = [names[run.workdir], run.network or "", run.dataset or "", run.state, f"{run.step:,}{total}", *errors]
        parameters = "" if run.parameters is None else f"{run.parameters:,}"
        rows.append([*cells, parameters, f"{run.seconds:,.0f}", f"{run.changed:%Y-%m-%d %H:%M}"])
    headings = ["run", "network", "data", "state", "iterations", *(f"{split} error" for split in splits)]
    headings += ["parameters", "seconds", "last change"]
    table = terminal.table(headings, rows, text_columns=4, width=terminal.UNLIMITED)
    if max(map(len, table.splitlines())) > terminal.console().width:
        rows = [[*row[:2], *row[4:-3]] for row in rows]
        table = terminal.table(["run", "network", "iterations", *splits], rows, text_columns=2)
    told = [
        f"{names[run.workdir]}: {', '.join(f'{name}={as_text(run.fields[name])}' for name in fields)}"
        for run in runs
        if run.fields and run.state != "weights" and fields
    ]
    told += [f"{names[run.workdir]}: {problem}" for run in runs for problem in run.problems]
    return "\n".join([table, *([""] if told else []), *map(printable, told)])


def draw(runs: Sequence[ListedRun], names: Mapping[Path, str], path: Path, title: str) -> None:
    """Draws the curves of all runs that have some, in one picture.

    Raises:
      InputError: none of them has, or the picture cannot be written.
    """
    from resnet_jax.analysis.plots import plot_curves

    curves = {names[run.workdir]: run.metrics for run in runs if run.metrics}
    if not curves:
        raise InputError(f"there is nothing to draw in {path}: no run has written metrics yet")
    plot_curves(curves, path, title)


def short_names(runs: Sequence[ListedRun]) -> dict[Path, str]:
    """What tells each run from the others: the part of its path that is not theirs too."""
    paths = [run.workdir.absolute() for run in runs]
    # Those of a bucket are no paths to `os.path.commonpath`.
    levels = zip(*(path.parent.parts for path in paths), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return {run.workdir: "/".join(path.parts[common:]) for run, path in zip(runs, paths, strict=True)}
