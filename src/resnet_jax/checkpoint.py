"""Checkpoints: the whole state, the pre-processing and the class names of a step. This file alone knows Orbax."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from resnet_jax.data.augment import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.training.state import TrainState

# Older ones are deleted. More than one, so that a damaged one costs the steps of one interval and not the run.
KEEP = 3


class Checkpoints:
    """The checkpoints under a run's `checkpoints/`; a context manager, which ends when everything is on disk.

    Saving is asynchronous and atomic: a run that is killed at any moment leaves whole checkpoints only.
    """

    def __init__(self, workdir: Path):
        self.directory = workdir.absolute() / "checkpoints"
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            # The loop decides when to save; Orbax's own default would save as often as it can and keep everything.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(KEEP),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with _clear_errors(self.directory):
            self._checkpointer.close()

    def save(self, state: TrainState, preprocessing: Preprocessing, class_names: Sequence[str], step: int) -> None:
        """Starts saving; returns as soon as the arrays have been copied from the devices.

        Raises:
          InputError: this or the previous checkpoint could not be written, for instance because the disk is full.
        """
        with _clear_errors(self.directory):
            self._checkpointer.save_checkpointables_async(
                step,
                {"state": state, "preprocessing": preprocessing, "classes": {"names": list(class_names)}},
            )

    def wait(self) -> None:
        """Returns when everything is on disk; raises as `save`."""
        with _clear_errors(self.directory):
            self._checkpointer.wait()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(
        self, abstract_state: TrainState, abstract_preprocessing: Preprocessing, say: Callable[[str], None]
    ) -> tuple[TrainState, Preprocessing] | None:
        """Loads the newest whole checkpoint.

        One that cannot be read is moved to `damaged/` beside the others, `say` is told, and the one before is tried.

        Args:
          abstract_state, abstract_preprocessing: shapes, dtypes and shardings to restore to.
          say: is given one line about each damaged checkpoint.

        Returns:
          The state and the pre-processing, or None if there is no checkpoint.

        Raises:
          InputError: there are checkpoints, and none can be read.
        """
        steps = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
        for step in reversed(steps):
            try:
                loaded = self._checkpointer.load_checkpointables(
                    step, {"state": abstract_state, "preprocessing": abstract_preprocessing}
                )
                return loaded["state"], loaded["preprocessing"]
            except Exception as error:  # Orbax and TensorStore raise many types for damaged files.
                damaged = self._set_aside(step)
                say(f"checkpoint {step} is damaged ({_first_line(error)}); moved it to {damaged}, trying an older one")
        if steps:
            raise InputError(f"no checkpoint in {self.directory} can be read; to start again use another --workdir")
        return None

    def _set_aside(self, step: int) -> Path:
        target = self.directory.parent / "damaged" / str(step)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (self.directory / str(step)).rename(target)
        self._checkpointer.reload()
        return target


def class_names(workdir: Path, step: int) -> tuple[str, ...]:
    """The class names that a checkpoint holds."""
    loaded = ocp.load_checkpointables(workdir.absolute() / "checkpoints" / str(step), {"classes": None})
    return tuple(loaded["classes"]["names"])


class _clear_errors:  # noqa: N801 (a context manager that reads as a verb)
    """Turns whatever Orbax raises when the disk is full into one clear line."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        causes = error
        while causes is not None:
            if "No space left" in str(causes) or getattr(causes, "errno", None) == 28:
                raise InputError(
                    f"the disk is full: no checkpoint could be written to {self.directory}; the older ones are whole: "
                    "free some space and run the same command again"
                ) from error
            causes = causes.__cause__ or causes.__context__


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
