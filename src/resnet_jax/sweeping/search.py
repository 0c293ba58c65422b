"""Points that Optuna proposes. This file alone knows it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from resnet_jax.errors import InputError, optional
from resnet_jax.files import is_remote
from resnet_jax.sweeping.points import Axes, Point, Range, point_name


class Search:
    """Optuna's study of a sweep, kept in DIR/study.db: the same command goes on with it. In a bucket that is a copy
    of a file in the folder `scratch`, which is written whole after each proposal and each error.

    `trials` have an error, in all starts together; those that fail in this start count too. A trial whose point has
    been trained before, in whatever start, gets that point's error. A point that was interrupted or failed in an
    earlier start is proposed again.

    Raises:
      InputError: Optuna is not installed, or the study has other axes.
    """

    def __init__(self, axes: Axes, trials: int, directory: Path, scratch: Path):
        try:
            import optuna  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                "--searcher=optuna needs Optuna: pip install 'deep-residual-jax[search]', or pip install optuna"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._kept = self._file = directory.absolute() / "study.db"
        if is_remote(directory):
            self._file = scratch / "study.db"
            if self._kept.exists():
                self._file.write_bytes(self._kept.read_bytes())
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(
            # An address: of a folder called a?b it would write into a.
            storage=f"sqlite:///{quote(os.fsencode(self._file))}",
            study_name="sweep",
            load_if_exists=True,
        )
        self._distributions = {field: _distribution(axis, optuna.distributions) for field, axis in axes.items()}
        described = {field: repr(axis) for field, axis in axes.items()}
        if self._study.user_attrs.get("axes", described) != described:
            raise InputError(f"{directory} holds a search over other axes: give the same ones, or another --workdir")
        self._study.set_user_attr("axes", described)
        past = self._study.get_trials()
        # Another seed in each start: with the same one, a start would propose again what the last one began with.
        self._study.sampler = optuna.samplers.TPESampler(seed=len(past), constant_liar=True)
        # Numbers of the trials that wait for the error of each point.
        self._open: dict[str, list[int]] = {}
        known = [trial.params for trial in past if trial.state == self._states.COMPLETE]
        self._left = trials - len(known)
        known += [trial.system_attrs.get("fixed_params") for trial in past if trial.state == self._states.WAITING]
        for trial in past:
            if trial.state == self._states.RUNNING:
                self._study.tell(trial.number, state=self._states.FAIL)
            whole = trial.params.keys() == self._distributions.keys()  # and not killed while it was proposed
            if trial.state in (self._states.RUNNING, self._states.FAIL) and whole and trial.params not in known:
                known.append(trial.params)
                self._study.enqueue_trial(trial.params)
        self._keep()

    @property
    def complete(self) -> list[Point]:
        """The points that have an error, each once, in the order of their trials."""
        trials = self._study.get_trials(states=(self._states.COMPLETE,))
        points = [self._point(trial.params) for trial in trials]
        return list({point_name(point): point for point in points}.values())

    @property
    def left(self) -> int:
        """How many trials are still to be proposed."""
        return max(self._left, 0)

    def ask(self) -> Point:
        """The point of the next trial, while any is left; `tell` is wanted for each."""
        self._left -= 1
        trial = self._study.ask(self._distributions)
        point = self._point(trial.params)
        self._open.setdefault(point_name(point), []).append(trial.number)
        with optional(f"a proposal in {self._kept}"):  # the next time the whole study is written
            self._keep()
        return point

    def tell(self, point: Point, error: float | None) -> None:
        """Gives the validation error of a point, a share, or None where it failed, to all trials that wait for it."""
        for number in self._open.pop(point_name(point), []):
            self._study.tell(number, error, state=self._states.FAIL if error is None else None)
        with optional(f"an error in {self._kept}"):
            self._keep()

    def _keep(self) -> None:
        if self._file != self._kept:
            self._kept.write_bytes(self._file.read_bytes())

    def _point(self, params: dict[str, Any]) -> Point:
        return {field: str(params[field]) for field in self._distributions}


def _distribution(axis: Sequence[str] | Range, distributions: Any) -> Any:
    if not isinstance(axis, Range):
        return distributions.CategoricalDistribution(list(axis))
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return distributions.IntDistribution(axis.low, axis.high, log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
