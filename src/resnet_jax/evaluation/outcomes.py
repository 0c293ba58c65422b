"""Scores classifiers on a whole split, and what became of its images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.folders import same_name
from resnet_jax.data.small import Split
from resnet_jax.errors import InputError, Progress, no_progress, warn
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.scoring import Scored, score_images, shown
from resnet_jax.models import ResNet


class Outcomes:
    """What became of each image of a split.

    Attributes:
      classes: how many there are.
      names: of the images.
      labels, predicted: classes, (images,) int32.
      probabilities: of the predicted classes, (images,) float32.
      ranks: how many classes were more probable than the label, (images,) int32.
      losses: negative logarithms of the label's probability, (images,) float64.
      done: which images were scored, (images,) bool; the others are damaged.
    """

    def __init__(self, images: int, classes: int):
        self.classes = classes
        self.names = [""] * images
        self.labels, self.predicted, self.ranks = (np.zeros(images, np.int32) for _ in range(3))
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
        self.ranks[index] = (scores > scores[label]).sum() + (scores[:label] == scores[label]).sum()
        self.losses[index] = -scores[label]

    @property
    def error(self) -> float:
        """The share of images whose most probable class is another one than theirs."""
        return float((self.ranks[self.done] > 0).mean())

    @property
    def top5_error(self) -> float:
        """The share of images whose class is not among the five most probable ones."""
        return float((self.ranks[self.done] >= 5).mean())

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
        found = self.summary()
        top5 = f", top-5 error {self.top5_error:.2%}" if "top5_error" in found else ""
        counts = f"{found['images']} images, {found['damaged']} damaged"
        return f"Outcomes(error {self.error:.2%}{top5}, loss {self.loss:.4f}: {counts})"

    def confusion(self) -> np.ndarray:
        """How often each class (row) was taken for each class (column): (classes, classes) int64."""
        counts = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(counts, (self.labels[self.done], self.predicted[self.done]), 1)
        return counts


def evaluate(
    classifiers: Classifier | Sequence[Classifier],
    split: Split | ImageSource,
    protocol: str = "center",
    scales: Sequence[int] | None = None,
    averaging: str = "logits",
    batch_size: int = 64,
    log: Callable[[str], None] = warn,
    progress: Progress = no_progress,
) -> Outcomes:
    """The errors and the loss of a classifier on a whole split, or of an ensemble, whose probabilities are averaged.

    Every image is scored exactly once. Of classes that are equally probable, the first one counts as the more probable.

    Args:
      classifiers: one, or several with the same classes.
      split: uint8 arrays as large as the network's images, which are shown as they are; or image files of any size.
      protocol: of files "center", "ten_crop" or "dense", see `protocols`; of arrays "center" (section 4.2).
      scales, averaging: of the protocol "dense".
      batch_size: images at a time; the result does not depend on it, but for rounding.
      log: is given a line about each damaged image, which is left out.
      progress: shows how many images are scored.

    Returns:
      What became of each image; its `error`, `top5_error` and `loss` are those of the split.

    Raises:
      InputError: no such protocol, classifiers that do not fit together or to the images, or no image that is whole.
    """
    chosen = protocols.choose(protocol, scales, averaging)
    members: list[Any] = list(classifiers) if isinstance(classifiers, (list, tuple)) else [classifiers]
    if not members:
        raise InputError("there is nothing to evaluate: give at least one classifier")
    images, chosen = shown(split, members, chosen, batch_size)
    for i, member in enumerate(members):
        check_classes(f"classifier {i}", member.class_names, "classifier 0", members[0].class_names)
        if protocol == "dense" and not isinstance(member.model, ResNet):
            raise InputError(
                f"a {type(member.model).__name__} has no maps of classes: the protocol dense is for ResNets"
            )
    found = Outcomes(len(images), len(members[0].class_names))
    for scored in progress(score_images(members, images, chosen, batch_size), len(images), "images"):
        if scored.scores is None:
            log(f"{scored.name} is damaged and left out: {scored.damage}")
        found.note(scored)
    if not found.done.any():
        raise InputError(f"all of the {len(images)} images are damaged: is the data set whole?")
    return found


def check_classes(name: str, names: Sequence[str], other: str, others: Sequence[str]) -> None:
    """Refuses two networks, or a network and data, that mean different classes by the same number.

    The placeholders "class 0", "class 1", … that converted weights have fit any names.
    """
    if len(names) != len(others):
        raise InputError(
            f"{name} was trained on {len(names)} classes, but {other} has {len(others)}: use what was trained on the "
            "same classes, with the data set of these"
        )
    placeholders = [f"class {i}" for i in range(len(names))]
    if placeholders in (list(names), list(others)):
        return
    for number, pair in enumerate(zip(names, others, strict=True)):
        if same_name(pair[0]) != same_name(pair[1]):
            raise InputError(
                f"class {number} is {pair[0]!r} in {name}, but {pair[1]!r} in {other}: use what was trained on the "
                "same classes, with the data set of these"
            )
