"""Runs: what ties networks, data, training and evaluation to a config and a folder.

A run is an input (`inputs`: where batches come from) and a task (`tasks`: what is learnt from them), which `loop`
drives without knowing either; `build` makes objects of a config's fields. In its workdir are `config_file`,
`metrics_log` and `checkpoints`, of which `metadata` says what they hold. `loading` reads a run again.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.runs.evaluate import evaluate_runs as evaluate_runs
    from resnet_jax.runs.inputs import (
        Input as Input,
        Program as Program,
        ResidentInput as ResidentInput,
        StreamedInput as StreamedInput,
        open_input as open_input,
    )
    from resnet_jax.runs.loading import (
        LoadedRun as LoadedRun,
        load as load,
        load_run as load_run,
        load_state as load_state,
    )
    from resnet_jax.runs.loop import train as train
    from resnet_jax.runs.metadata import CheckpointMetadata as CheckpointMetadata
    from resnet_jax.runs.metrics_log import read_metrics as read_metrics
    from resnet_jax.runs.recalibrate import recalibrate_run as recalibrate_run
    from resnet_jax.runs.run import Run as Run
    from resnet_jax.runs.tasks import Task as Task, classification as classification
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "evaluate": ["evaluate_runs"],
            "inputs": ["Input", "Program", "ResidentInput", "StreamedInput", "open_input"],
            "loading": ["LoadedRun", "load", "load_run", "load_state"],
            "loop": ["train"],
            "metadata": ["CheckpointMetadata"],
            "metrics_log": ["read_metrics"],
            "recalibrate": ["recalibrate_run"],
            "run": ["Run"],
            "tasks": ["Task", "classification"],
        },
    )
