"""Checks of what the functions of this room are given, and the network as they take it."""

from typing import Any

import flax.linen as nn
import numpy as np

from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import check_classifier, check_fit, check_multiple


def check_images(classifier: Any, images: Any, labels: Any = None) -> None:
    """Refuses what is no classifier, no batch of images or, where there are labels, not one class of each image."""
    check_classifier(classifier, "images")
    check_fit(classifier, images)
    if not len(images):
        raise InputError("there is no image to measure: give at least one")
    if labels is not None and np.shape(labels) != (len(images),):
        shape = np.shape(labels)
        given = f"{shape[0]} labels" if len(shape) == 1 else f"labels {shape}"
        raise InputError(f"there are {len(images)} images and {given}, but each image has one")
    if labels is not None:
        check_classes(classifier, labels=labels)


def check_classes(classifier: Any, **given: Any) -> None:
    """Refuses what holds something else than classes of the network, by its name."""
    for name, values in given.items():
        classes, last = np.asarray(values), len(classifier.class_names) - 1
        wrong = classes[(classes < 0) | (classes > last)] if classes.dtype.kind in "iu" else classes.ravel()
        if len(wrong):
            raise InputError(
                f"{name} must hold classes, whole numbers from 0 to {last}, but {wrong[0]!s} is among them"
            )


def check_finite(logits: Any) -> None:
    """Refuses logits that have no largest one."""
    if not np.isfinite(logits).all():
        raise InputError("the logits of these images are not finite: look for NaN in the images and in the weights")


def check_groups(model: nn.Module, **counts: int) -> None:
    """Refuses numbers of images that do not fall into batch-norm groups, by their names."""
    check_multiple(getattr(model, "bn_group_size", None) or 1, "the network's bn_group_size", **counts)


def check_stages(model: nn.Module) -> None:
    """Refuses a network that does not give the feature maps of its stages."""
    if not hasattr(model, "stages"):
        raise InputError(f"a {type(model).__name__} has no stages with feature maps, which a ResNet, say, has")


def unfrozen(model: nn.Module) -> Any:
    """The network without what would hide gradients and statistics: frozen parts, whose are zeros, and dropout."""
    plain = {"freeze": None, "live_statistics": False, "dropout": 0.0}
    return model.clone(**{name: value for name, value in plain.items() if getattr(model, name, value) != value})
