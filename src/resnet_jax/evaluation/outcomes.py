"""What became of the images of a split."""

from typing import Any

import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.evaluation.scoring import Scored


class Outcomes:
    """What became of each image of a split.

    Attributes:
      classes: how many there are.
      names: of the images.
      labels, predicted: classes, (images,) int32.
      probabilities: of the predicted classes, (images,) float32.
      places: how many classes were more probable than the label, (images,) int32.
      losses: negative logarithms of the label's probability, (images,) float64.
      done: which images were scored, (images,) bool; the others are damaged.
    """

    def __init__(self, images: int, classes: int):
        self.classes = classes
        self.names = [""] * images
        self.labels, self.predicted, self.places = (np.zeros(images, np.int32) for _ in range(3))
        self.probabilities = np.zeros(images, np.float32)
        self.losses = np.zeros(images)
        self.done = np.zeros(images, bool)

    def note(self, scored: Scored) -> None:
        """Takes one image in.

        Raises:
          InputError: its label is no class of the network.
          RuntimeError: it has been taken in before.
        """
        index, label, scores = scored.index, scored.label, scored.scores
        if self.done[index]:
            raise RuntimeError(f"{scored.name} was scored twice")
        if not 0 <= label < self.classes:
            raise InputError(f"image {scored.name} is of class {label}, but the network knows {self.classes} classes")
        self.names[index], self.labels[index] = scored.name, label
        if scores is None:
            return
        self.done[index] = True
        self.predicted[index] = scores.argmax()
        self.probabilities[index] = np.exp(scores.max())
        self.places[index] = (scores > scores[label]).sum() + (scores[:label] == scores[label]).sum()
        self.losses[index] = -scores[label]

    @property
    def error(self) -> float:
        """The share of images whose most probable class is another one than theirs."""
        return float((self.places[self.done] > 0).mean())

    @property
    def top5_error(self) -> float:
        """The share of images whose class is not among the five most probable ones."""
        return float((self.places[self.done] >= 5).mean())

    @property
    def loss(self) -> float:
        """The mean of the negative logarithm of the label's probability."""
        return float(self.losses[self.done].mean())

    def summary(self) -> dict[str, Any]:
        """ "images", "damaged", "error", "top5_error" if there are more than five classes, and "loss"."""
        top5 = {"top5_error": self.top5_error} if self.classes > 5 else {}
        done = int(self.done.sum())
        return {"images": done, "damaged": len(self.done) - done, "error": self.error, **top5, "loss": self.loss}

    def __repr__(self) -> str:
        return f"Outcomes({', '.join(f'{name}={value}' for name, value in self.summary().items())})"

    def confusion(self) -> np.ndarray:
        """How often each class (row) was taken for each class (column): (classes, classes) int64."""
        counts = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(counts, (self.labels[self.done], self.predicted[self.done]), 1)
        return counts
