"""Scores a trained network on a whole split."""

from pathlib import Path
from typing import Any

import jax

from resnet_jax import sharding
from resnet_jax.data import sources
from resnet_jax.data.pipeline import put_split
from resnet_jax.errors import InputError
from resnet_jax.evaluation.trained import load_trained
from resnet_jax.training.step import compile_evaluate


def evaluate(
    directory: Path, split: str = "test", data_dir: str | None = None, batch_size: int | None = None
) -> dict[str, Any]:
    """The error and loss of a run's newest checkpoint on the single original view of every image (section 4.2).

    Args:
      directory: the run's workdir.
      split: "test", "train" or "validation".
      data_dir: where the data lies, if not where the run's config says.
      batch_size: images at a time, if not the config's; the result does not depend on it.

    Returns:
      "error", "loss", "images" (each scored exactly once), "split", "step" and "workdir".

    Raises:
      InputError: no checkpoint, no data, or no such split.
    """
    trained = load_trained(directory)
    fields = trained.config.dataset
    dataset = sources.load(fields.name, data_dir or fields.data_dir, fields.validation_images)
    splits = {"test": dataset.test, "train": dataset.train, "validation": dataset.validation}
    images = splits.get(split)
    if images is None:
        present = ", ".join(name for name in splits if splits[name] is not None)
        raise InputError(f"there is no split {split!r} in this run's data: it has {present}")
    size: int = trained.config.eval.batch_size if batch_size is None else batch_size
    if size < 1:
        raise InputError(f"the evaluation's batch size is {size}, but it must be at least 1")
    on_device = put_split(images, sharding.replicated(trained.mesh))
    score = compile_evaluate(trained.model, trained.mesh, batch_size=size)
    totals = jax.device_get(score(trained.variables, on_device, trained.preprocessing))
    return {
        "workdir": str(directory),
        "step": trained.step,
        "split": split,
        "images": int(totals.count),
        "error": float(totals.errors / totals.count),
        "loss": float(totals.loss / totals.count),
    }
