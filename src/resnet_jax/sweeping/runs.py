"""What is known of each point of a sweep, from the files in its folder; and the table of a sweep's results."""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.configs.base import Config
from resnet_jax.errors import InputError
from resnet_jax.runs import length, terminal
from resnet_jax.runs.metrics_log import read_metrics
from resnet_jax.runs.workdir import complete_result, read_config
from resnet_jax.sweeping.points import Point, point_name


@dataclass
class Run:
    """One point of a sweep, and what has become of it.

    Its `state` is "waiting", "running", "complete" or "failed". A complete one has a `split` and the `error` on it, a
    share; a failed one a `message` of one line. Earlier starts wrote `log_start` bytes of its log. It is complete when
    it is as long as its `config` says; without one, as long as its folder says.
    """

    point: Point
    directory: Path
    state: str = "waiting"
    split: str | None = None
    error: float | None = None
    message: str = ""
    log_start: int = 0
    config: Config | None = None

    @property
    def name(self) -> str:
        """Of the point."""
        return point_name(self.point)

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.directory / "log.txt"

    def start(self) -> None:
        """Notes that a process is about to start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.state, self.message = "running", ""
        self.log_start = 0
        with contextlib.suppress(FileNotFoundError, InputError):  # a bucket that does not answer stops no point
            self.log_start = self.log.stat().st_size

    def result(self) -> dict[str, Any] | None:
        """That of the length which is asked for; None where there is none; raises InputError where it is damaged."""
        result = complete_result(self.directory)
        if result is None or self.config is None or not (self.directory / "config.json").exists():
            return result
        return result if length.is_complete(result["step"], read_config(self.directory), self.config) else None

    def is_over(self) -> bool:
        """Whether there is a result, or a damaged one."""
        try:
            return self.result() is not None
        except InputError:
            return True

    def conclude(self, ending: str, *, validation: bool = False) -> None:
        """Finds out what has become of it when its process has ended.

        `ending` says how, for a point that is not complete and whose log says nothing. With `validation` its error is
        the validation error, never that of the result, which can be the test error.
        """
        self.state = "failed"
        try:
            result = self.result()
            if result is None:
                self.message = _last_words(self.log, self.log_start) or ending
                return
            split = "validation" if validation else result.get("split", "test")
            self.error = _validation_error(self.directory) if validation else result[f"{split}_error"]
            self.state, self.split = "complete", split
        except InputError as error:
            self.message = str(error)

    def describe(self) -> str:
        """Its name and state as a line."""
        error = "" if self.error is None else f", {self.split} error {self.error:.2%}"
        message = f": {self.message} ({self.log})" if self.message else ""
        return f"{self.name}: {self.state}{error}{message}"

    def as_json(self) -> dict[str, Any]:
        """What results.json says of it; "error" is the share, "message" says why there is none."""
        fields = {name: getattr(self, name) for name in ("point", "state", "split", "error")}
        return {**fields, "message": self.message or None, "log": str(self.log)}


def _validation_error(directory: Path) -> float:
    damage: list[str] = []
    errors = [line["validation_error"] for line in read_metrics(directory, damage.append) if "validation_error" in line]
    if not errors:
        raise InputError("its metrics.jsonl holds no validation error")
    if damage:  # the last error that is left may be an earlier one than that of the last iteration
        raise InputError(f"{damage[0]}: remove its folder to train it again")
    return errors[-1]


def _last_words(log: Path, start: int) -> str:
    """The last line with which a command refused, or else its last line at all, in what the last command wrote."""
    if not log.exists():
        return ""
    written = log.read_bytes()[start:].decode(errors="replace").rpartition("$ resnet-jax ")[2].splitlines()[1:]
    lines = [line.strip() for line in written if line.strip()]
    refusals = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (refusals or lines or [""])[-1][:500]


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each combination of the axes other than seed the complete runs: "point", the "split" whose errors these are,
    and "errors", one for each seed, with their "mean" and "std" (of the sample; None for a single seed).
    """
    rows: dict[tuple[str | None, str], dict[str, Any]] = {}
    for run in runs:
        if run.error is not None:
            point = {field: value for field, value in run.point.items() if field != "seed"}
            row = rows.setdefault((run.split, point_name(point)), {"point": point, "split": run.split, "errors": []})
            row["errors"].append(run.error)
    for row in rows.values():
        errors = row["errors"]
        row |= {"mean": statistics.fmean(errors), "std": statistics.stdev(errors) if len(errors) > 1 else None}
    return list(rows.values())


def results_table(rows: Sequence[dict[str, Any]], title: str) -> str:
    """The rows of `summarise` as a table, errors in percent, of the images that the last heading names."""
    fields, splits = list(rows[0]["point"]), {row["split"] for row in rows}
    cells = []
    for row in rows:
        spread = "" if row["std"] is None else f" ± {100 * row['std']:.2f}"
        own = f" {row['split']}" if len(splits) > 1 else ""
        cells.append((*row["point"].values(), str(len(row["errors"])), f"{100 * row['mean']:.2f}{spread}{own}"))
    heading = f"{'/'.join(sorted(splits))} error, mean ± std (%)"
    return terminal.table((*fields, "runs", heading), cells, title, text_columns=len(fields))
