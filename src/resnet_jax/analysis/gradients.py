"""How large the gradients of each layer are, and how much gradients of near inputs have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num

from resnet_jax.analysis.execution import executed_layers, named
from resnet_jax.analysis.inputs import check_groups, check_images, unfrozen
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError, check_whole
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import unstack
from resnet_jax.models.layers import BatchNorm
from resnet_jax.training.losses import Loss, cross_entropy, examples


@dataclass(frozen=True)
class LayerGradient:
    """The kernel of a convolution or of the classifier, and the gradient of the mean loss by it.

    Attributes:
      name: such as "stage2/block3/conv1".
      kernel_norm, gradient_norm: Euclidean norms. Behind a batch norm the gradient is inverse to the kernel's size,
        and their product does not depend on it.
    """

    name: str
    kernel_norm: float
    gradient_norm: float


def gradient_norms(
    classifier: Classifier,
    images: Num[Array | np.ndarray, "count height width channels"],
    labels: Integer[Array | np.ndarray, " count"],
    *,
    train: bool = True,
    loss: Loss = cross_entropy,
) -> list[LayerGradient]:
    """The norms of the gradient of each kernel on one batch, in the order of execution (paper section 4.1); also of
    kernels that `freeze` keeps from being trained. Nothing is dropped out.

    Args:
      classifier: any network.
      images: 0 to 255, uint8 or float, as the classifier is called with; computed at once.
      labels: their classes.
      train: batch norms normalise by the batch's statistics, as in training. Without it they go by the running ones:
        in a network that is freshly drawn, with `epsilon=0`, they then change nothing, as if there were none.
      loss: see `training.Loss`.

    Raises:
      InputError: there is no image, labels are not one class of each, or `train` finds no whole batch-norm groups.

    Example:
      >>> import jax, numpy as np, resnet_jax as rj
      >>> model, shape = rj.create("cifar_plain8", unroll=True), (8, 8, 1)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> norm = rj.data.Preprocessing.of_channels([0.5], [0.25])
      >>> classifier = rj.Classifier(model, variables, norm, tuple("0123456789"), shape)
      >>> images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
      >>> [each.name for each in gradient_norms(classifier, images, np.arange(8))][-2:]
      ['stage3/block1/conv2', 'fc']
    """
    check_images(classifier, images, labels)
    if train:
        check_groups(classifier.model, **{"the number of images": len(images)})
    model, labels = unfrozen(classifier.model), np.asarray(labels)
    found = _gradients(model, classifier.variables, classifier.preprocessing, images, labels, train, loss)
    params, gradients = unstack(jax.device_get(classifier.variables["params"])), unstack(jax.device_get(found))
    names = [
        layer.name
        for layer in executed_layers(classifier.model, tuple(images.shape[1:]))
        if not isinstance(layer.module, BatchNorm)
    ]

    def norm(tree: Any, name: str) -> float:
        return float(np.linalg.norm(np.float64(named(tree, name)["kernel"])))

    return [LayerGradient(name, norm(params, name), norm(gradients, name)) for name in names]


@partial(jax.jit, static_argnames=("model", "train", "loss"))
def _gradients(
    model: nn.Module, variables: Any, preprocessing: Preprocessing, images: Any, labels: Any, train: bool, loss: Loss
) -> Any:
    batch = Batch(preprocessing(images), labels)

    def mean_loss(params: Any) -> jax.Array:
        collections = {**variables, "params": params}
        outputs = model.apply(collections, batch.images, train=train, mutable=["batch_stats"] if train else False)
        return loss(outputs[0] if train else outputs, batch)[0] / examples(batch)

    return jax.grad(mean_loss)(variables["params"])


def gradient_autocorrelation(
    function: Callable[[Any], Any], inputs: Float[Array | np.ndarray, "count ..."], lags: Sequence[int]
) -> Float[np.ndarray, " lags"]:
    """How much the gradients at inputs have in common with those at neighbours (1702.08591).

    White noise has none at any lag but 0, Brownian motion much: gradients of deep plain networks look like the first,
    those of residual ones like the second.

    Args:
      function: from one input to a number.
      inputs: equally far from each other along a line.
      lags: how many inputs apart, from 0 to fewer than there are.

    Returns:
      sum of g(i) · g(i + lag) over the inputs, divided by their number and by the mean of g · g, where the mean of g
      over the inputs is subtracted.

    Example:
      >>> import jax.numpy as jnp
      >>> waves = gradient_autocorrelation(lambda x: jnp.sin(x), jnp.arange(0, 8 * jnp.pi, jnp.pi / 8), [0, 8, 16])
      >>> waves.round(1).tolist()
      [1.0, -1.0, 1.0]
    """
    count = len(inputs)
    _check_lags(lags, count)
    gradients = jax.jit(jax.vmap(jax.grad(function)))(jnp.asarray(inputs))
    return autocorrelation(np.asarray(gradients).reshape(count, -1), lags)


def autocorrelation(series: Float[np.ndarray, "count _"], lags: Sequence[int]) -> Float[np.ndarray, " lags"]:
    """As of `gradient_autocorrelation`, of values that are there: the mean over the pairs that each lag has.

    >>> autocorrelation(np.array([[1.0], [-1.0], [1.0], [-1.0]]), [0, 1, 2]).tolist()
    [1.0, -1.0, 1.0]
    """
    _check_lags(lags, len(series))
    centred = np.float64(series) - np.float64(series).mean(0)
    total = np.mean((centred * centred).sum(1))
    found = [(centred[: len(centred) - lag] * centred[lag:]).sum(1).mean() for lag in lags]
    return np.array(found) / total


def _check_lags(lags: Sequence[int], count: int) -> None:
    for lag in lags:
        check_whole(0, lag=lag)
        if lag >= count:
            raise InputError(f"lags are {list(lags)}, but they must be below {count}, the inputs")
