"""What became of the images of a split: errors, and files that show them."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import InputError, complain, optional
from resnet_jax.evaluation.scoring import Scored
from resnet_jax.files import write_whole

# A picture of more classes cannot be read.
_MOST_CLASSES = 30


class Outcomes:
    """What became of each image of a split.

    Attributes:
      names: of the images.
      labels, predicted: classes, (images,) int32.
      probabilities: of the predicted classes, (images,) float32.
      places: how many classes were more probable than the label, (images,) int32.
      losses: negative logarithms of the label's probability, (images,) float64.
      done: which images were scored, (images,) bool; the others are damaged.
    """

    def __init__(self, images: int):
        self.names = [""] * images
        self.labels, self.predicted, self.places = (np.zeros(images, np.int32) for _ in range(3))
        self.probabilities = np.zeros(images, np.float32)
        self.losses = np.zeros(images)
        self.done = np.zeros(images, bool)

    def note(self, scored: Scored) -> None:
        """Takes one image in.

        Raises:
          RuntimeError: it has been taken in before.
        """
        index, label, scores = scored.index, scored.label, scored.scores
        if self.done[index]:
            raise RuntimeError(f"{scored.name} was scored twice")
        self.names[index], self.labels[index] = scored.name, label
        if scores is None:
            return
        self.done[index] = True
        self.predicted[index] = scores.argmax()
        self.probabilities[index] = np.exp(scores.max())
        self.places[index] = (scores > scores[label]).sum() + (scores[:label] == scores[label]).sum()
        self.losses[index] = -scores[label]

    def summary(self, classes: int) -> dict[str, Any]:
        """ "images", "damaged", "error", "top5_error" and "loss", see `evaluate`."""
        places = self.places[self.done]
        top5 = {"top5_error": float((places >= 5).mean())} if classes > 5 else {}
        return {
            "images": len(places),
            "damaged": int((~self.done).sum()),
            "error": float((places > 0).mean()),
            **top5,
            "loss": float(self.losses[self.done].mean()),
        }

    def confusion(self, classes: int) -> np.ndarray:
        """How often each class (row) was taken for each class (column): (classes, classes) int64."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.labels[self.done], self.predicted[self.done]), 1)
        return counts


def prepare_folder(folder: Path) -> None:
    """Makes the folder for `write_tables`.

    Raises:
      InputError: it cannot be made, or is the workdir of a run.
    """
    if (folder / "config.json").exists():
        raise InputError(f"{folder} is the workdir of a run, which has a result.json of its own: use another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error


def write_tables(
    folder: Path,
    result: Mapping[str, Any],
    found: Outcomes,
    class_names: Sequence[str],
    say: Callable[[str], None] = complain,
) -> None:
    """Writes an evaluation into a folder, each file as a whole.

    `predictions.csv` holds a line for each image that was scored, in the order of the data; `per_class.csv` one for
    each class, without an accuracy where there are no images; `confusion.csv` counts, a row for each true class and a
    column for each predicted one, which `confusion.png` shows where there are at most 30; `result.json` is `result`.
    `say` is given a line about a picture that cannot be drawn.
    """
    confusion = found.confusion(len(class_names))
    write_whole(
        folder / "predictions.csv",
        _csv(
            ("image", "label", "predicted", "probability"),
            (
                (
                    found.names[i],
                    class_names[found.labels[i]],
                    class_names[found.predicted[i]],
                    f"{found.probabilities[i]:.6g}",
                )
                for i in np.flatnonzero(found.done).tolist()
            ),
        ),
    )
    images, correct = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    write_whole(
        folder / "per_class.csv",
        _csv(
            ("class", "images", "correct", "accuracy"),
            (
                (name, all_, right, f"{right / all_:.6g}" if all_ else "")
                for name, all_, right in zip(class_names, images, correct, strict=True)
            ),
        ),
    )
    rows = ((name, *row) for name, row in zip(class_names, confusion.tolist(), strict=True))
    write_whole(folder / "confusion.csv", _csv(("true", *class_names), rows))
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")
    if len(class_names) <= _MOST_CLASSES:
        with optional(f"the picture {folder / 'confusion.png'}", say):
            from resnet_jax.analysis.plots import plot_confusion

            plot_confusion(confusion, class_names, folder / "confusion.png")


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
