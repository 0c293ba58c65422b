"""resnet-jax features: what a network sees in the images of a data set, once, and a head that is fitted to it."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_jax.data import small
from resnet_jax.data.images import NAMES, check_dataset, open_images
from resnet_jax.errors import InputError, Progress, no_progress, warn
from resnet_jax.evaluation.linear_probe import features, fit_head
from resnet_jax.files import check_writable, expanded, whole_file
from resnet_jax.runs import convert, starting
from resnet_jax.runs.metrics_log import write_metrics


def extract_features(
    weights: str | os.PathLike[str],
    dataset: str,
    output: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    log: Callable[[str], None] = warn,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Writes the features of a data set's images, and fits a head to those of the training images.

    Args:
      weights: a workdir or a file, see `starting.read`.
      dataset, data_dir: as of `config.dataset`.
      output: a new file for `np.load`: "class_names", and of the splits "train" and "validation" (of small data sets
        "test") "train_features" (images, channels) float32, "train_labels" int32 and "train_names", of the files.
      directory: becomes a workdir with the network and its new head, if it is given.
      batch_size: images at a time.
      log: is given lines about the weights and the data.
      progress: shows how many images are done.

    Returns:
      "split", and the "error" of the fitted head on it and how many "images" it has.

    Raises:
      InputError: weights or data cannot be used, or something is there already that would be replaced. The
        features are kept where no head can be fitted to them.
    """
    check_dataset(dataset, data_dir)
    output = expanded(output, "--output", remote=True)
    if output.exists():
        raise InputError(f"{output} exists, and nothing is replaced: give another --output, or remove it")
    workdir = None if directory is None else convert.new_workdir(directory)
    check_writable(output)  # before all is computed
    classifier = starting.read(weights, log, "--weights")
    data: Any = open_images(dataset, data_dir, log) if dataset in NAMES else small.load(dataset, data_dir)
    split = "validation" if dataset in NAMES else "test"
    arrays, found = {"class_names": np.array(data.class_names)}, {}
    for name in ("train", split):
        found[name] = features(classifier, getattr(data, name), batch_size=batch_size, log=log, progress=progress)
        arrays |= {f"{name}_{field}": np.asarray(value) for field, value in found[name]._asdict().items()}
    with whole_file(output) as file:
        np.savez(file, allow_pickle=False, **arrays)
    try:
        fitted = fit_head(classifier, found["train"], data.class_names, log=log)
    except InputError as error:
        raise InputError(f"{error}; the features are kept in {output}") from error
    fc, scored = fitted.variables["params"]["fc"], found[split]
    predicted = (scored.features @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"])).argmax(1)
    error = float((predicted != scored.labels).mean())
    if workdir is not None:
        convert.write_workdir(fitted, workdir, dataset, data_dir)
        write_metrics(workdir, [{"step": 0, f"{split}_error": error}])
    return {"split": split, "error": error, "images": len(predicted)}
