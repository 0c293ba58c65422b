"""The trained network of a run, loaded from its workdir."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from resnet_jax.configs.base import Config
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import Checkpoints, Restored
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.runs.metrics_log import better, read_metrics
from resnet_jax.runs.tasks import TaskMaker, classification
from resnet_jax.training.state import TrainState, abstract_variables


@dataclass(frozen=True)
class LoadedRun:
    """A run with the network and the step of one of its checkpoints, on a mesh of all devices.

    What the run froze is no part of the network, which can be trained on as a whole: `config.init` says it.
    """

    config: Config
    classifier: Classifier
    step: int
    mesh: Mesh


def load(
    workdir: str | os.PathLike[str], log: Callable[[str], None] = warn, *, checkpoint: str | int = "last"
) -> Classifier:
    """The network of a run's checkpoint, on all devices, with nothing frozen; arguments and errors as of `load_run`."""
    return load_run(workdir, log, checkpoint=checkpoint).classifier


def load_run(
    directory: str | os.PathLike[str], log: Callable[[str], None] = warn, *, checkpoint: str | int = "last"
) -> LoadedRun:
    """Loads a run with one of its checkpoints.

    Args:
      directory: the workdir that `loop.train` was given.
      log: is given a line about each damaged checkpoint that is passed over.
      checkpoint: "last" is the newest whole one; "best" the one with the least validation error, which a run with
        `train.keep_best` keeps; a number the one of that iteration.

    Raises:
      InputError: it is no workdir, holds no whole checkpoint, or not the one that is asked for, or that is damaged.
    """
    config, mesh = workdir.read_config(workdir.locate(directory)), make_mesh()

    def abstract(metadata: CheckpointMetadata) -> dict[str, Any]:
        return abstract_variables(build.model(config, len(metadata.class_names)), metadata.image_shape, mesh)

    step, variables, preprocessing, metadata = _restore(directory, abstract, log, checkpoint)
    model: Any = build.model(config, len(metadata.class_names)).clone(freeze=None, live_statistics=False)
    classifier = Classifier(model, variables, preprocessing, metadata.class_names, metadata.image_shape)
    return LoadedRun(config, classifier, step, mesh)


def load_state(
    directory: str | os.PathLike[str],
    make_task: TaskMaker = classification,
    log: Callable[[str], None] = warn,
    *,
    checkpoint: str | int = "last",
) -> TrainState:
    """The state of a run's checkpoint, on all devices; see `load_run`, and `make_task` of `train`."""
    config, mesh = workdir.read_config(workdir.locate(directory)), make_mesh()

    def abstract(metadata: CheckpointMetadata) -> TrainState:
        return make_task(config, metadata, 1, mesh).abstract_state(metadata.image_shape, mesh)

    return _restore(directory, abstract, log, checkpoint).state


def _restore(
    directory: str | os.PathLike[str], abstract: Any, log: Callable[[str], None], checkpoint: str | int
) -> Restored:
    directory = workdir.locate(directory)
    if not (checkpoint in ("last", "best") or str(checkpoint).removeprefix("-").isdecimal()):
        raise InputError(f"checkpoint is {checkpoint!r}, but it must be last, best or an iteration")
    check_begun(directory)
    with Checkpoints(directory, write=False) as checkpoints:
        step = None if checkpoint == "last" else checkpoint
        if checkpoint == "best":
            step = _best(directory, checkpoints.steps())
        restored = checkpoints.restore(abstract, log, None if step is None else int(step))
    if restored is None:
        raise _no_checkpoint(directory)
    if checkpoint == "last":
        # A line about it stops nothing, nor does a damaged result.
        with contextlib.suppress(InputError):
            stated = (workdir.complete_result(directory) or restored._asdict())["step"]
            if stated not in {restored.step, *workdir.saved_steps(directory)}:
                log(f"this is the checkpoint of iteration {restored.step}: that of {stated}, of result.json, is gone")
    return restored


def check_begun(directory: Path) -> None:
    """Refuses what is no workdir, and one where there can be no checkpoint."""
    workdir.read_config(directory)
    if not (directory / "checkpoints").is_dir():
        raise _no_checkpoint(directory)


def _no_checkpoint(directory: Path) -> InputError:
    if workdir.complete_result(directory):
        return InputError(
            f"{directory} is complete, but its checkpoints are gone: remove its result.json, and the resnet-jax train "
            "command that began the run trains it again"
        )
    return InputError(f"{directory} holds no checkpoint yet: resnet-jax train --workdir={directory} writes one")


def _best(directory: Path, steps: Sequence[int]) -> int | None:
    """The step with the least validation error, or that a complete run's result names; None without a checkpoint."""
    if not steps:
        return None
    # A run that is at work writes the line before the checkpoint.
    lines = [line for line in read_metrics(directory) if line["step"] <= steps[-1]]
    best = functools.reduce(better, lines, None)
    # A run that did not keep its best one from the beginning says which of those that it kept is the best.
    stated = (workdir.complete_result(directory) or {}).get("best")
    if stated is not None and stated["step"] in steps:
        best = stated
    if best is None:
        raise InputError(
            f"{directory} has no validation error that a checkpoint could be the best by: "
            "config.dataset.validation_images keeps images back to validate on"
        )
    if best["step"] not in steps:
        raise InputError(
            f"the least validation error in {directory} was that of iteration {best['step']}, whose checkpoint was not "
            f"kept, as config.train.keep_best=true does: there are {', '.join(map(str, steps))}"
        )
    return best["step"]
