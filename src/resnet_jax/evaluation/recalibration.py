"""Batch-norm statistics of many training batches together, instead of running ones (section 3.4)."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Num

from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier, check_classifier, check_fit, check_multiple
from resnet_jax.models import ResNet
from resnet_jax.models.layers import batch_norm_maps


def recalibrate(
    classifier: Classifier,
    batches: Iterable[Num[Array | np.ndarray, "batch height width channels"]],
    grad_accum_steps: int = 1,
) -> Classifier:
    """The network with the mean and the unbiased variance of what reaches each batch norm in training, over the images
    of all batches together.

    The authors' released networks have such statistics. Running ones come from the last few dozen batches, and from
    parameters that have changed since.

    What reaches a batch norm depends on the statistics that those before it used. They are those of each batch-norm
    group, as in training: it is normalised by its own statistics, and how much the groups' means differ is part of the
    variance.

    Args:
      classifier: its parameters stay, and its running statistics are not used.
      batches: images (batch, height, width, channels) of equally large batches, augmented. uint8 ones are pre-processed
        here, float ones are what the model is given.
      grad_accum_steps: microbatches of a batch; where the model's `bn_group_size` is None each is a batch-norm group.

    Returns:
      The classifier with other `variables["batch_stats"]`, float32 NumPy arrays; those that are frozen stay.

    Raises:
      InputError: there is no batch, batches differ in size or do not fall into groups, or the batch norms are not those
        of a `ResNet`.
    """
    check_classifier(classifier, "batches of images")
    model: Any = classifier.model
    if not isinstance(model, ResNet):
        raise InputError(f"the batch norms of a {type(model).__name__} are not known here: only those of ResNets are")
    variables, group = classifier.variables, model.bn_group_size
    parts = (grad_accum_steps, "grad_accum_steps") if group is None else (group, "bn_group_size")
    # With momentum 0, "running" statistics are those of the batch, and each group becomes a batch of its own.
    alone = model.clone(momentum=0.0, bn_group_size=None)

    def measured(image_shape: tuple[int, ...]) -> Iterable[tuple[tuple[str, ...], tuple[int, int]]]:
        sizes = batch_norm_maps(model, image_shape).items()
        return ((path, size) for path, size in sizes if path[0] not in model.frozen_statistics)

    def of_group(images: jax.Array) -> dict[Any, Any]:
        _, updated = alone.apply(variables, images, train=True, mutable=["batch_stats"])
        return traverse_util.flatten_dict(updated["batch_stats"])

    @jax.jit
    def moments(images: jax.Array) -> dict[tuple[str, ...], tuple[jax.Array, jax.Array]]:
        check_fit(classifier, images)
        images = classifier.preprocessing(images) if images.dtype == np.uint8 else images
        if group is None:  # the microbatches of `training.step`
            groups = images.reshape(-1, grad_accum_steps, *images.shape[1:]).swapaxes(0, 1)
        else:
            groups = images.reshape(-1, group, *images.shape[1:])
        stats, found = jax.vmap(of_group)(groups), {}
        for path, (height, width) in measured(images.shape[1:]):
            values = groups.shape[1] * height * width
            means, biased = stats[*path, "mean"], stats[*path, "var"] * ((values - 1) / values)
            found[path] = means.mean(0), biased.mean(0) + means.var(0)
        return found

    found, shape = [], (0,)
    for images in batches:
        given = np.shape(images)
        if len(given) != 4 or (found and given != shape):
            raise InputError(
                f"a batch is {given}, but batches must be a list of equally large ones (count, height, width, "
                "channels), such as [images]"
            )
        check_multiple(*parts, **{"the size of a batch": len(images)})
        # One batch at a time: the devices would hold all that the host is ahead of them.
        found.append(jax.device_get(moments(images)))
        shape = given
    if not found:
        raise InputError("statistics are averaged over at least 1 batch, but there is none")
    statistics: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(variables["batch_stats"]))
    for path, (height, width) in measured(shape[1:]):
        means, variances = (np.array([batch[path][i] for batch in found], np.float64) for i in (0, 1))
        mean, values = means.mean(0), len(found) * shape[0] * height * width
        between = np.maximum(np.square(means).mean(0) - np.square(mean), 0.0)
        unbiased = (variances.mean(0) + between) * (values / max(values - 1, 1))
        statistics[*path, "mean"], statistics[*path, "var"] = np.float32(mean), np.float32(unbiased)
    batch_stats: Any = traverse_util.unflatten_dict(statistics)
    return classifier.replace(variables={**variables, "batch_stats": batch_stats})
