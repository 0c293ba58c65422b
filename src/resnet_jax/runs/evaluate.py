"""resnet-jax evaluate: scores the networks of runs on a data set, and writes what became of its images."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.configs.base import Config
from resnet_jax.data import cache, small
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.images import NAMES, check_dataset, open_images
from resnet_jax.errors import InputError, Progress, no_progress, optional, warn
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.outcomes import Outcomes, check_classes, evaluate
from resnet_jax.files import expanded, write_whole
from resnet_jax.runs.loading import load_run
from resnet_jax.runs.recalibrate import recalibrate_run


def evaluate_runs(
    workdirs: Sequence[str | os.PathLike[str]],
    split: str | None = None,
    dataset: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    protocol: str = "center",
    scales: Sequence[int] | None = None,
    averaging: str = "logits",
    recalibrate: int | None = None,
    output: str | os.PathLike[str] | None = None,
    log: Callable[[str], None] = warn,
    progress: Progress = no_progress,
    *,
    checkpoint: str | int = "last",
) -> dict[str, Any]:
    """Scores checkpoints of runs, see `evaluation.evaluate`; several runs are an ensemble.

    Args:
      workdirs: of the runs.
      split: of photographs "validation" (default) or "train"; of other data "test" (default), "train" or "validation".
      dataset, data_dir: what the data is and where it lies, if not what and where the first run's config says: ImageNet
        may also be a folder or a cache. EXIF orientations are applied or ignored as `open_images` says.
      batch_size: images at a time, if not the first run's.
      protocol, scales, averaging: see `evaluation.evaluate`.
      recalibrate: training batches to average each run's batch-norm statistics over first, see `recalibrate_run`.
      output: a folder for `result.json`, `predictions.csv`, `per_class.csv`, `confusion.csv` and, of at most 30
        classes, `confusion.png`.
      log: is given lines about damaged checkpoints and images, which are left out, and about the data.
      progress: shows how many images are scored.
      checkpoint: of each run, see `load_run`.

    Returns:
      "workdirs", "checkpoint" as asked for, its "steps", "split", "protocol", "scales", "averaging" and "recalibrated"
      where they apply, and what `Outcomes.summary` says.

    Raises:
      InputError: no checkpoint, no data, no such split or protocol, members of an ensemble that do not fit together, or
        no image that is whole.
    """
    chosen = protocols.choose(protocol, scales, averaging)
    if not workdirs:
        raise InputError("no run was given: name the workdir of at least one")
    folder = None if output is None else _made(expanded(output, "output", remote=True))
    names = [str(expanded(workdir, "workdir", remote=True)) for workdir in workdirs]
    runs = [load_run(name, log, checkpoint=checkpoint) for name in names]
    classifiers = [run.classifier for run in runs]
    config = runs[0].config
    images, class_names, split, kept = _open(config, split, dataset, data_dir, log)
    for classifier, name in zip(classifiers, names, strict=True):
        check_classes(name, classifier.class_names, "the data", class_names)
    if not isinstance(images, small.Split):
        side = max(each.preprocessing.resized_to(each.image_shape) for each in classifiers)
        dense = {"the greatest of the scales": max(chosen.scales)}
        cache.warn_of_enlarging(kept, dense if protocol == "dense" else {f"the protocol {protocol}": side}, log)
    if recalibrate is not None:
        classifiers = [recalibrate_run(run, recalibrate, dataset, data_dir) for run in runs]
    size = config.eval.batch_size if batch_size is None else batch_size
    found = evaluate(classifiers, images, protocol, scales, averaging, size, log, progress)
    result = {
        "workdirs": names,
        "checkpoint": checkpoint,
        "steps": [run.step for run in runs],
        "split": split,
        "protocol": protocol,
        **({"scales": list(chosen.scales), "averaging": averaging} if protocol == "dense" else {}),
        **({} if recalibrate is None else {"recalibrated": recalibrate}),
        **found.summary(),
    }
    if folder is not None:
        _write_tables(folder, result, found, class_names, log)
    return result


def _open(
    config: Config, split: str | None, dataset: str | None, data_dir: Any, log: Callable[[str], None]
) -> tuple[small.Split | ImageSource, tuple[str, ...], str, int | None]:
    """The images of a split, the names of their classes, the split's name, and the shorter side that a cache keeps."""
    fields = config.dataset
    name = dataset or fields.name
    check_dataset(name, data_dir)
    data_dir = data_dir or fields.data_dir
    if name in NAMES:
        data: Any = open_images(name, data_dir, log)
        present, kept = ("validation", "train"), data.resize_size
    else:
        data = small.load(name, data_dir, fields.validation_images)
        present, kept = ("test", "train", *(["validation"] if data.validation is not None else [])), None
    split = split or present[0]
    if split not in present:
        raise InputError(f"there is no split {split!r} in this run's data: it has {', '.join(present)}")
    return getattr(data, split), data.class_names, split, kept


def _made(folder: Path) -> Path:
    if (folder / "config.json").exists():
        raise InputError(f"{folder} is the workdir of a run, which has a result.json of its own: use another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


def _write_tables(
    folder: Path, result: Mapping[str, Any], found: Outcomes, class_names: Sequence[str], log: Callable[[str], None]
) -> None:
    confusion, done = found.confusion(), np.flatnonzero(found.done).tolist()
    predictions = (
        (found.names[i], class_names[found.labels[i]], class_names[found.predicted[i]], f"{found.probabilities[i]:.6g}")
        for i in done
    )
    counts = zip(class_names, confusion.sum(1).tolist(), confusion.diagonal().tolist(), strict=True)
    # A class without images has no accuracy.
    per_class = ((name, images, right, f"{right / images:.6g}" if images else "") for name, images, right in counts)
    # A row is a true class.
    rows = ((name, *row) for name, row in zip(class_names, confusion.tolist(), strict=True))
    _write_csv(folder / "predictions.csv", ("image", "label", "predicted", "probability"), predictions)
    _write_csv(folder / "per_class.csv", ("class", "images", "correct", "accuracy"), per_class)
    _write_csv(folder / "confusion.csv", ("true", *class_names), rows)
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")
    if len(class_names) <= 30:  # of more classes nobody could read it
        with optional(f"the picture {folder / 'confusion.png'}", log):
            from resnet_jax.analysis.plots import plot_confusion

            plot_confusion(confusion, class_names, folder / "confusion.png")


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_whole(path, text.getvalue())
