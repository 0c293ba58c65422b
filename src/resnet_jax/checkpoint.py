"""Checkpoints: the whole state, the pre-processing and the class names of a step. This file alone knows Orbax."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from resnet_jax.data.augment import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.rng import hash_words
from resnet_jax.training.state import TrainState


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of its network's classes, in the order of the logits, and of its images' shape."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]


class Restored(NamedTuple):
    """A loaded checkpoint."""

    state: TrainState
    preprocessing: Preprocessing
    card: Card


# Older ones are deleted. More than one, so that a damaged one costs the steps of one interval and not the run.
KEEP = 3


class Checkpoints:
    """The checkpoints under a run's `checkpoints/`; a context manager, which ends when everything is on disk.

    Saving is asynchronous and atomic: a run that is killed at any moment leaves whole checkpoints only.
    """

    def __init__(self, workdir: Path):
        self.directory = workdir.absolute() / "checkpoints"
        self._checkpointer = ocp.training.Checkpointer(
            str(self.directory),
            # The loop decides when to save; Orbax's own default would save as often as it can and keep everything.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore[reportArgumentType]
            preservation_policy=ocp.training.preservation_policies.LatestN(KEEP),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with _clear_errors(self.directory):
            self._checkpointer.close()

    def save(self, state: TrainState, preprocessing: Preprocessing, card: Card, step: int) -> None:
        """Starts saving; returns as soon as the arrays have been copied from the devices.

        Raises:
          InputError: this or the previous checkpoint could not be written, for instance because the disk is full.
        """
        with _clear_errors(self.directory):
            for damaged in self._steps_from(step):
                self._checkpointer.delete(damaged)
            self._checkpointer.save_checkpointables_async(
                step,
                {
                    "state": state,
                    "preprocessing": preprocessing,
                    "card": {**dataclasses.asdict(card), "fingerprint": int(_fingerprint(state))},
                },
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
        self, abstract: Callable[[Card], tuple[TrainState, Preprocessing]], say: Callable[[str], None]
    ) -> Restored | None:
        """Loads the newest whole checkpoint.

        One that cannot be read is passed over; `save` replaces it when the run gets there again.

        Args:
          abstract: gives the shapes, dtypes and shardings to restore to.
          say: is given one line about each damaged checkpoint.

        Returns:
          The checkpoint, or None if there is none.

        Raises:
          InputError: there are checkpoints, and none can be read.
        """
        steps = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
        for step in reversed(steps):
            try:
                fields = self._checkpointer.load_checkpointables(step, {"card": None})["card"]
                card = Card(tuple(fields["class_names"]), tuple(fields["image_shape"]))
                state, preprocessing = abstract(card)
                loaded = self._checkpointer.load_checkpointables(step, {"state": state, "preprocessing": preprocessing})
                if int(_fingerprint(loaded["state"])) != fields["fingerprint"]:
                    raise ValueError("its arrays are not those that were saved")
                return Restored(loaded["state"], loaded["preprocessing"], card)
            except Exception as error:  # Orbax and TensorStore raise many types for damaged files.
                say(f"checkpoint {step} is damaged and passed over: {_first_line(error)}")
        if steps:
            raise InputError(f"no checkpoint in {self.directory} can be read; to start again use another --workdir")
        return None

    def _steps_from(self, step: int) -> list[int]:
        """Checkpoints that `restore` passed over: a run only gets to a step again when those could not be read."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints if checkpoint.step >= step]


@jax.jit
def _fingerprint(state: TrainState) -> jax.Array:
    """A hash of every bit of a state, uint32: Orbax's files carry no checksum of their arrays.

    Sums of integers do not depend on their order, so it is the same however the state is sharded.
    """
    total = jnp.zeros((), jnp.uint32)
    for i, leaf in enumerate(jax.tree.leaves(state)):
        flat = leaf.reshape(-1)
        words = flat.astype(jnp.uint32) if flat.dtype == bool else jax.lax.bitcast_convert_type(flat, jnp.uint32)
        places = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(0x9E3779B9) + jnp.uint32(i)
        total += hash_words(words.reshape(-1) ^ hash_words(places)).sum(dtype=jnp.uint32)
    return total


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
