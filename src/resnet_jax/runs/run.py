"""A run that is complete: what `train` returns, and what is read of its workdir when it is asked for."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_jax.errors import short_repr
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs import loading
from resnet_jax.runs.metrics_log import read_metrics
from resnet_jax.runs.tasks import TaskMaker, classification
from resnet_jax.training.state import TrainState


@dataclass(frozen=True)
class Run:
    """A complete run.

    Attributes:
      workdir: its folder.
      result: what result.json holds: errors after the final iteration, and what they were measured on.
      make_task: what it learnt.
    """

    workdir: Path
    result: dict[str, Any]
    make_task: TaskMaker = field(default=classification, repr=False)
    __repr__ = short_repr

    @cached_property
    def classifier(self) -> Classifier:
        """The trained network, see `loading.load`."""
        return loading.load(self.workdir)

    @cached_property
    def state(self) -> TrainState:
        """The state after the last iteration, on all devices."""
        return loading.load_state(self.workdir, self.make_task)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.workdir)
