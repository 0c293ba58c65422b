"""What a sweep shows: a live table on a terminal, elsewhere a line for each change, and the tables of its end."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

from resnet_jax import terminal
from resnet_jax.sweeping.runs import Run
from resnet_jax.terminal import Console, Table, live

# Seconds between two looks at the metrics of the points at work, and between two pictures of the live table.
_EVERY = 1.0


class Display:
    """Shows how the points of a sweep change; a context manager.

    Args:
      console: where.
      runs: of the sweep so far; may grow.
      expected: how many there will be.
      clock: seconds, for the time that is left.
    """

    def __init__(
        self, console: Console, runs: Sequence[Run], expected: int, clock: Callable[[], float] = time.monotonic
    ):
        self._console = console
        self._runs = runs
        self._expected = expected
        self._clock = clock
        self._said: dict[str, str] = {}
        self._started, self._shown = clock(), -_EVERY
        self._done_at_start = 0.0
        self._live = live(console) if console.is_terminal else None

    def __enter__(self) -> "Display":
        for run in self._runs:
            run.look()
        self._done_at_start = done(self._runs)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self.update(now=True)
            self._live.stop()

    def update(self, *, now: bool = False) -> None:
        """Shows what has changed, on a terminal not more often than it can be read, unless it must be `now`."""
        if self._live is None:
            for run in self._runs:
                if run.state != self._said.get(run.name, "waiting"):
                    self._console.print(f"{run.name}: {describe(run)}")
                self._said[run.name] = run.state
            return
        if not now and self._clock() - self._shown < _EVERY:
            return
        self._shown = self._clock()
        for run in self._runs:
            if run.state == "running":
                run.look()
        self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The points with their states; where they are more than the terminal's lines, those at work and failed."""
        runs = self._runs
        if len(runs) > self._console.height - 8:
            runs = [run for run in runs if run.state in ("running", "failed")]
        table = Table("point", "state", "iteration", "error (%)", caption=self._caption(), caption_justify="left")
        if any(run.state == "failed" for run in runs):
            table.add_column("failure")
        for run in runs:
            error = "" if run.error is None else f"{100 * run.error:.2f} ({run.split})"
            failure = [f"{run.message} ({run.log})"] if run.state == "failed" else []
            table.add_row(run.name, run.state, f"{run.iteration}/{run.iterations}", error, *failure)
        return table

    def _caption(self) -> str:
        counts = [(state, sum(run.state == state for run in self._runs)) for state in ("complete", "running", "failed")]
        said = ", ".join(f"{count} {state}" for state, count in counts if count)
        elapsed = self._clock() - self._started
        left = seconds_left(elapsed, self._done_at_start, done(self._runs), self._expected)
        when = f", about {datetime.timedelta(seconds=round(left))} left" if left else ""
        return f"{said or 'none at work'}, of {self._expected} points{when}"


def done(runs: Sequence[Run]) -> float:
    """How many points' worth of iterations lie behind; a failed point has none left."""
    return sum(1.0 if run.state in ("complete", "failed") else min(run.iteration / run.iterations, 1.0) for run in runs)


def seconds_left(elapsed: float, at_start: float, now: float, expected: int) -> float | None:
    """What is left, in seconds, if each point takes as long as those behind did; None before there are any.

    Args:
      elapsed: seconds since the start.
      at_start, now: how many points were and are done; see `done`.
      expected: how many points there are.
    """
    return elapsed * (expected - now) / (now - at_start) if now > at_start else None


def describe(run: Run) -> str:
    """The state of a point as a line."""
    if run.state == "complete" and run.error is not None:
        return f"complete after {run.iteration} iterations, {run.split} error {run.error:.2%}"
    if run.state == "failed":
        return f"failed: {run.message} ({run.log})"
    return run.state


def results_table(rows: Sequence[dict[str, Any]], title: str) -> str:
    """The rows of `runs.summarise` as a table, errors in percent."""
    fields = list(rows[0]["point"])
    cells = []
    for row in rows:
        spread = "" if row["std"] is None else f" ± {100 * row['std']:.2f}"
        cells.append((*row["point"].values(), str(len(row["errors"])), f"{100 * row['mean']:.2f}{spread}"))
    return terminal.table((*fields, "runs", "error, mean ± std (%)"), cells, title, text_columns=len(fields))
