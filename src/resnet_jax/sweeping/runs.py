"""What is known of each point of a sweep, from the files in its folder; and the rows of a sweep's results."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax import workdir
from resnet_jax.errors import InputError
from resnet_jax.sweeping.points import Point, point_name

_SPLITS = ("validation", "test", "train")


@dataclass
class Run:
    """One point of a sweep.

    Attributes:
      point: the values of its fields.
      directory: its workdir.
      iterations: that it has when it is complete.
      state: "waiting", "running", "complete" or "failed".
      iteration: that it has reached.
      split, error: what the newest error was measured on, and that error as a share; None before there is any.
      message: one line about why it failed.
      log_start: behind what earlier starts wrote in its log, in bytes.
    """

    point: Point
    directory: Path
    iterations: int
    state: str = "waiting"
    iteration: int = 0
    split: str | None = None
    error: float | None = None
    message: str = ""
    log_start: int = 0
    _looked_at: int = -1
    _damage: str = ""

    @property
    def name(self) -> str:
        """Of the point."""
        return point_name(self.point)

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.directory / "log.txt"

    def start_log(self) -> None:
        """Notes that a process is about to start."""
        self.state, self.message = "running", ""
        self.log_start = self.log.stat().st_size if self.log.exists() else 0

    def look(self) -> None:
        """Reads how far it is from its metrics, if they have changed."""
        path = self.directory / "metrics.jsonl"
        changed = path.stat().st_mtime_ns if path.exists() else -1
        if changed == self._looked_at:
            return
        self._looked_at = changed
        damage: list[str] = []
        lines = workdir.read_metrics(self.directory, damage.append)
        self._damage = "".join(damage)
        self.iteration = max((line["step"] for line in lines), default=0)
        for split in _SPLITS:
            errors = [line[f"{split}_error"] for line in lines if f"{split}_error" in line]
            if errors:
                self.split, self.error = split, errors[-1]
                return

    def conclude(self, ending: str, *, validation: bool = False) -> None:
        """Finds out what has become of it when its process has ended.

        Args:
          ending: how the process ended, for a point that is not complete and whose log says nothing.
          validation: take the validation error for its error, never that of the result, which can be the test error.
        """
        try:
            result = workdir.read_result(self.directory)
        except InputError as error:
            self.state, self.message = "failed", str(error)
            return
        self.look()
        if result is None:
            self.state, self.message = "failed", _last_words(self.log, self.log_start) or ending
            return
        self.state, self.iteration = "complete", result["step"]
        if not validation:
            self.split = result.get("split", "test")
            self.error = result[f"{self.split}_error"]
        elif self.split != "validation":
            self.state, self.message = "failed", "its metrics.jsonl holds no validation error"
        elif self._damage:
            # The last error that is left may be an earlier one than that of the last iteration.
            self.state, self.message = "failed", f"{self._damage}: remove its folder to train it again"

    def as_json(self) -> dict[str, Any]:
        """What results.json says of it; "error" is the share, "message" says why there is none."""
        complete = self.state == "complete"
        return {
            "point": self.point,
            "state": self.state,
            "split": self.split if complete else None,
            "error": self.error if complete else None,
            "message": self.message or None,
            "log": str(self.log),
        }


def _last_words(log: Path, start: int) -> str:
    """The last line with which a command refused, or else its last line at all, in what the last command wrote."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(start)
        said = file.read().decode(errors="replace").splitlines()
    last = max((i for i, line in enumerate(said) if line.startswith("$ resnet-jax ")), default=-1)
    lines = [line.strip() for line in said[last + 1 :] if line.strip()]
    refusals = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (refusals or lines or [""])[-1][:500]


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Groups complete runs that differ in nothing but their seed.

    Returns:
      For each combination of the axes other than seed: "point", and "errors", one for each seed, with their "mean" and
      "std" (of the sample; None for a single seed).
    """
    groups: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for run in runs:
        if run.state == "complete" and run.error is not None:
            key = tuple((field, value) for field, value in run.point.items() if field != "seed")
            groups.setdefault(key, []).append(run.error)
    return [
        {
            "point": dict(key),
            "errors": errors,
            "mean": statistics.fmean(errors),
            "std": statistics.stdev(errors) if len(errors) > 1 else None,
        }
        for key, errors in groups.items()
    ]
