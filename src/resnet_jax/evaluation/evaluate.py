"""Scores classifiers on a whole split."""

from collections.abc import Callable, Sequence
from typing import Any

from resnet_jax.data.encoded import Photograph, Photographs
from resnet_jax.data.folders import same_name
from resnet_jax.data.sources import Split
from resnet_jax.errors import InputError, Progress, complain, no_progress
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.outcomes import Outcomes
from resnet_jax.evaluation.scoring import score_images


def evaluate(
    classifiers: Classifier | Sequence[Classifier],
    split: Split | Photographs,
    protocol: str = "center",
    scales: Sequence[int] | None = None,
    averaging: str = "logits",
    batch_size: int = 64,
    log: Callable[[str], None] = complain,
    progress: Progress = no_progress,
) -> Outcomes:
    """The errors and the loss of a classifier on a whole split, or of an ensemble, whose probabilities are averaged.

    Every image is scored exactly once. Of classes that are equally probable, the first one counts as the more probable.

    Args:
      classifiers: one, or several with the same classes.
      split: uint8 images as large as the network's, which are shown as they are; or photographs.
      protocol: of photographs "center", "ten_crop" or "dense", see `protocols`; of other images "center" (section 4.2).
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
    members = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
    names = [f"classifier {i}" for i in range(len(members))]
    check_ensemble(members, names)
    images: Any = split
    if isinstance(split, Split):
        if protocol != "center":
            raise InputError(
                f"the protocol {protocol} is for photographs, but these images are scored as they are: use the "
                "protocol center"
            )
        for member, name in zip(members, names, strict=True):
            check_images(member, name, split)
        chosen = protocols.Protocol("original")
        pairs = zip(split.images, split.labels.tolist(), strict=True)
        images = [Photograph(pixels, label, str(i)) for i, (pixels, label) in enumerate(pairs)]
    if batch_size < 1:
        raise InputError(f"the evaluation's batch size is {batch_size}, but it must be at least 1")
    found = Outcomes(len(images), len(members[0].class_names))
    for scored in progress(score_images(members, images, chosen, batch_size), len(images), "images"):
        if scored.scores is None:
            log(f"{scored.name} is damaged and left out: {scored.damage}")
        found.note(scored)
    if not found.done.any():
        raise InputError(f"all of the {len(images)} images are damaged: is the data set whole?")
    return found


def check_images(classifier: Classifier, name: str, split: Split) -> None:
    """Refuses to show a network images of another size, or with other channels, than it is for."""
    shape = split.images.shape[1:]
    if shape != classifier.image_shape:
        theirs, ours = (" x ".join(map(str, each)) for each in (classifier.image_shape, shape))
        raise InputError(
            f"{name} is for images of {theirs}, but those of the data are {ours}, and are shown as they are: "
            "give the data set that it was trained on"
        )


def check_ensemble(members: Sequence[Classifier], names: Sequence[str]) -> None:
    """Refuses an ensemble without members, or whose members name different classes by the same number."""
    if not members:
        raise InputError("there is nothing to evaluate: give at least one network")
    for member, name in zip(members, names, strict=True):
        ours, theirs = members[0].class_names, member.class_names
        if len(theirs) != len(ours):
            what: tuple[str, object, object] = ("numbers of classes", len(theirs), len(ours))
        elif (number := first_difference(theirs, ours)) is not None:
            what = (f"names of class {number}", theirs[number], ours[number])
        else:
            continue
        raise InputError(
            f"{name} and {names[0]} are no ensemble, their {what[0]} differ: {what[1]} and {what[2]}; "
            "average networks of the same classes"
        )


def first_difference(names: Sequence[str], others: Sequence[str]) -> int | None:
    """The first class of two equally long lists whose name differs, or None.

    The placeholders "class 0", "class 1", … that `interop.convert` gives fit any names.
    """
    placeholders = [f"class {i}" for i in range(len(names))]
    if placeholders in (list(names), list(others)):
        return None
    pairs = enumerate(zip(names, others, strict=True))
    return next((i for i, (ours, theirs) in pairs if same_name(ours) != same_name(theirs)), None)
