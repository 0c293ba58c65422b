"""Batch-norm statistics of many training batches of a run."""

import contextlib
import os
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.recalibration import recalibrate
from resnet_jax.runs.inputs import open_input
from resnet_jax.runs.loading import LoadedRun


def recalibrate_run(
    run: LoadedRun, batches: int, dataset: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Classifier:
    """The network with the statistics of the first training batches of its run, augmented as they were.

    Statistics that the run froze stay as they are.

    The data are the config's, but for what `dataset` and `data_dir` say. No data, or no batch, is an InputError.
    """
    if batches < 1:
        raise InputError(f"statistics were asked to be averaged over {batches} batches, but it must be at least 1")
    config = run.config.copy_and_resolve_references()
    config.dataset.name = dataset or config.dataset.name
    config.dataset.data_dir = os.fspath(data_dir) if data_dir else config.dataset.data_dir
    # What there is to say of a folder, the evaluation has said.
    images = open_input(config, run.mesh, lambda line: None, run.classifier.preprocessing)
    with contextlib.closing(images):
        augmented = (batch.images for batch in images.batches(batches))
        model: Any = run.classifier.model
        as_trained = model.clone(freeze=config.init.freeze, live_statistics=config.init.live_statistics)
        found = recalibrate(run.classifier.replace(model=as_trained), augmented, config.train.grad_accum_steps)
        return found.replace(model=model)
