"""One run for each point of a grid of config fields, or of a search among them, and a table of what came out."""

import contextlib
import datetime
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.configs.base import Config
from resnet_jax.configs.parsing import load
from resnet_jax.data.images import NAMES
from resnet_jax.errors import InputError, is_passing, optional
from resnet_jax.files import locked, write_whole
from resnet_jax.runs import checks, starting, terminal, workdir
from resnet_jax.runs.interrupt import Interruptible
from resnet_jax.runs.metrics_log import read_metrics
from resnet_jax.sweeping.local import LocalProcesses
from resnet_jax.sweeping.points import Point, corners, grid, parse_axes, point_name
from resnet_jax.sweeping.runs import Run, results_table, summarise
from resnet_jax.sweeping.search import Search
from resnet_jax.sweeping.slurm import SlurmArray

# Seconds between two looks at the processes.
_EVERY = 0.1


@dataclass(frozen=True)
class Plan:
    """What all points of a sweep have in common.

    Attributes:
      source, overrides: the config of all points; see `sweep`.
      directory: of the sweep.
      validation: whether the points' validation errors are wanted, and not those of their results.
    """

    source: str
    overrides: Mapping[str, str]
    directory: Path
    validation: bool

    def config(self, point: Point) -> Config:
        """The config of a point; raises InputError for a field or value that does not exist."""
        return load(self.source, {**self.overrides, **point})

    def run(self, point: Point) -> Run:
        """A point as its folder shows it: complete or waiting; raises InputError if that is another config's."""
        config = self.config(point)
        run = Run(point, self.directory / point_name(point), config=config)
        if (run.directory / "config.json").exists():
            workdir.claim(run.directory, starting.as_begun(config, run.directory))
        if run.is_over():
            run.conclude("", validation=self.validation)
        return run

    def command(self, run: Run) -> list[str]:
        """The arguments of resnet-jax that train a point."""
        fields = [f"--config.{field}={value}" for field, value in {**self.overrides, **run.point}.items()]
        return ["train", f"--config={self.source}", *fields, f"--workdir={run.directory}"]


def sweep(
    source: str,
    overrides: Mapping[str, str],
    axes: Sequence[str],
    directory: str | os.PathLike[str],
    *,
    combine: str = "product",
    jobs: int | None = None,
    launcher: str = "local",
    slurm: Sequence[str] = (),
    searcher: str = "grid",
    trials: int | None = None,
) -> list[dict[str, Any]]:
    """Trains every point of a grid, or those that a search proposes, each as a process with a folder of its own.

    Calling it again goes on: complete points are skipped, all others run again from their last checkpoints. A point
    that fails stops no other one.

    Args:
      source: the config of all points; see `configs.load`.
      overrides: values of fields of it as on the command line, such as {"train.iterations": "20"}.
      axes: see `points.parse_axes`.
      directory: holds a folder such as "model.depth=20,seed=0" for each point, with a log.txt, and at the end
        results.json: {"rows": what this returns, "points": state, error and log of each point}, and curves.png.
      combine: see `points.grid`.
      jobs: how many points at a time; see `local.LocalProcesses` and `slurm.SlurmArray` for the defaults.
      launcher: "local" for processes of this machine, "slurm" for an array of SLURM.
      slurm: parameters of sbatch; see `slurm.sbatch_parameters`.
      searcher: "grid" for all points, "optuna" for `trials` points with which Optuna looks for the least validation
        error; see `search.Search`.
      trials: see there.

    Returns:
      The rows of `runs.summarise`; those of a search are of validation errors, the least one first.

    Raises:
      InputError: a field, value or option that does not exist, a search without validation images, another sweep in
        the directory, or, when all points have ended, failed points.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the points at work have saved and ended. Jobs of SLURM go on.
    """
    directory = workdir.locate(directory, "--workdir")
    parsed = parse_axes(axes)
    plan = Plan(source, overrides, directory, validation=searcher == "optuna")
    _check_options(plan, combine, jobs, launcher, slurm, trials)
    # All of them first: a mistyped value shows before hours of training.
    points = corners(parsed) if plan.validation else grid(parsed, combine)
    for config in [plan.config(point) for point in points]:
        _check(config, plan)
    runs = [] if plan.validation else [plan.run(point) for point in points]

    directory.mkdir(parents=True, exist_ok=True)
    log = terminal.console().print
    refusal = f"another sweep is at work in {directory}: wait for it, or use another --workdir"
    with locked(directory / "sweep.lock", refusal) as check, contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        search = Search(parsed, trials, directory, scratch) if trials else None
        runs += [plan.run(point) for point in search.complete] if search else []
        launch = SlurmArray(directory, jobs, slurm) if launcher == "slurm" else LocalProcesses(jobs)
        stack.callback(launch.close)
        with Interruptible() as interruption:
            _run_all(plan, runs, launch, search, interruption, lambda: _still_locked(check), log)
        if interruption.requested:
            raise KeyboardInterrupt
    return _finish(plan, runs, log)


def _run_all(
    plan: Plan,
    runs: list[Run],
    launch: LocalProcesses | SlurmArray,
    search: Search | None,
    interruption: Interruptible,
    check: Callable[[], None],
    log: Callable[[str], None],
) -> None:
    """Starts points and watches them until all have ended, or until an interruption has stopped those at work."""
    for run in runs:
        if run.state != "waiting":
            log(run.describe())
    begun, ended = time.monotonic(), 0
    while True:
        for run, ending in launch.ended():
            check()
            run.conclude(ending, validation=plan.validation)
            if interruption.requested and run.state == "failed":
                run.state, run.message = "waiting", ""
            elif search:
                search.tell(run.point, run.error)
            ended += 1
            left = sum(each.state in ("waiting", "running") for each in runs) + (search.left if search else 0)
            # As if each point took as long as those that have ended since the start.
            seconds = round((time.monotonic() - begun) / ended * left)
            log(f"{run.describe()}; {left} left, about {datetime.timedelta(seconds=seconds)}")
        if not interruption.requested:
            if interruption.reached():
                launch.stop()
            else:
                for run in _fill(plan, runs, launch, search, check):
                    log(run.describe())
        if not launch.running:
            return
        time.sleep(_EVERY)


def _still_locked(check: Callable[[], None]) -> None:
    """Raises where another sweep has taken the folder over, and not where its bucket does not answer for a while."""
    try:
        check()
    except InputError as error:
        if not is_passing(error.__cause__):
            raise


def _fill(
    plan: Plan,
    runs: list[Run],
    launch: LocalProcesses | SlurmArray,
    search: Search | None,
    check: Callable[[], None],
) -> list[Run]:
    """Starts waiting points in the jobs that are free; where too few wait, a search adds some."""
    free = launch.jobs - len(launch.running)
    waiting = [run for run in runs if run.state == "waiting"]
    if free and (waiting or (search and search.left)):
        check()
    while search and search.left and len(waiting) < free:
        point = search.ask()
        run = next((run for run in runs if run.point == point), None)
        if run is None:
            run = plan.run(point)
            runs.append(run)
            waiting += [run] if run.state == "waiting" else []
        if run.state in ("complete", "failed"):
            search.tell(point, run.error)
    chosen = waiting[: int(min(free, len(waiting)))]
    for run in chosen:
        run.start()
    launch.start([(run, plan.command(run)) for run in chosen])
    return chosen


def _finish(plan: Plan, runs: Sequence[Run], log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Writes results.json, shows the table and draws the curves; raises InputError if points have failed."""
    rows = summarise(runs)
    if plan.validation:
        rows.sort(key=lambda row: row["mean"])
    path = plan.directory / "results.json"
    write_whole(path, json.dumps({"rows": rows, "points": [run.as_json() for run in runs]}, indent=2) + "\n")
    if rows:
        print(results_table(rows, "Least error first" if plan.validation else "After the final iteration"))
    curves = {run.name: lines for run in runs if (lines := read_metrics(run.directory, log))}
    picture = plan.directory / "curves.png"
    if curves:
        with optional(f"the picture {picture}", log):
            from resnet_jax.analysis.plots import plot_curves

            plot_curves(curves, picture, f"{plan.directory.absolute().name}: points of {plan.source}")
            log(f"curves {picture}")
    failed = [run for run in runs if run.state == "failed"]
    for run in failed:
        log(run.describe())
    if failed:
        logs = ", ".join(str(run.log) for run in failed)
        raise InputError(
            f"{len(failed)} of {len(runs)} points failed: read {logs}; the same command runs them again and no others"
        )
    return rows


def _check_options(
    plan: Plan, combine: str, jobs: int | None, launcher: str, slurm: Sequence[str], trials: int | None
) -> None:
    grids, slurms = not plan.validation, launcher == "slurm"
    for wrong, message in (
        (jobs is not None and jobs < 1, f"--jobs is {jobs}, but it must be at least 1"),
        (slurm and not slurms, "--slurm is for --launcher=slurm, which is not given"),
        (grids and trials is not None, "--trials is for --searcher=optuna, which is not given"),
        (not grids and (trials or 0) < 1, "--searcher=optuna needs --trials=N, at least 1"),
        (not grids and combine != "product", "--combine is for grids: --searcher=optuna chooses values by itself"),
        (
            not grids and slurms and jobs is None,
            "--searcher=optuna with --launcher=slurm needs --jobs=N, how many trials learn nothing of others",
        ),
    ):
        if wrong:
            raise InputError(message)


def _check(config: Config, plan: Plan) -> None:
    """Raises InputError for what no run can have, or what a search must not look at."""
    checks.check(config)
    if plan.validation and not (config.dataset.validation_images or config.dataset.name in NAMES):
        raise InputError(
            "--searcher=optuna would choose by the test images, which are for the end: keep training images back to "
            "validate on with --config.dataset.validation_images=N"
        )
