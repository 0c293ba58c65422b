"""How much each layer changes the signal: the standard deviations of figure 7."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Num

from resnet_jax.analysis.execution import batch_norm_moments, executed_layers, named
from resnet_jax.analysis.inputs import check_images
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import unstack
from resnet_jax.models.conv import Conv


@dataclass(frozen=True)
class LayerResponse:
    """The response of one 3x3 layer, after its batch norm and before the ReLU or the addition.

    Attributes:
      name: of the convolution, such as "stage2/block3/conv1".
      std: standard deviation over all images, positions and channels. The paper does not say over what it is taken.
      std_of_parameters: the same from the batch norm's parameters alone, sqrt(mean(scale² v / (v + epsilon)) +
        var(bias)) with the running variance v: exact where the layer is normalised by the measured images' own
        statistics, as `train` does. Running statistics are of other images and of earlier parameters.
    """

    name: str
    std: float
    std_of_parameters: float


def layer_responses(
    classifier: Classifier,
    images: Num[Array | np.ndarray, "count height width channels"],
    *,
    train: bool = False,
    batch_size: int = 128,
) -> list[LayerResponse]:
    """Measures the response of each 3x3 layer in the order of execution (figure 7); ResNet-110 has 109 of them.

    Args:
      classifier: a network whose 3x3 convolutions have batch norms behind them, which the second one of a
        pre-activation block has not.
      images: 0 to 255, uint8 or float, as the classifier is called with.
      train: each batch is normalised by its own statistics, as in training; else by the running ones.
      batch_size: images at a time.

    Returns:
      A list; of a stem of 7x7 and of 1x1 convolutions there are none.

    Raises:
      InputError: there is no image, a 3x3 convolution has no batch norm behind it, the network has no batch norm, or
        `train` finds no whole batch-norm groups.

    Example:
      >>> import jax, numpy as np, resnet_jax as rj
      >>> model, shape = rj.create("cifar_resnet8"), (8, 8, 1)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> norm = rj.data.Preprocessing.of_channels([0.5], [0.25])
      >>> classifier = rj.Classifier(model, variables, norm, tuple("0123456789"), shape)
      >>> images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
      >>> [(each.name, round(each.std, 3)) for each in layer_responses(classifier, images, train=True)][:2]
      [('conv1', 1.0), ('stage1/block1/conv1', 1.0)]
    """
    check_images(classifier, images)
    every = {layer.name: layer for layer in executed_layers(classifier.model, tuple(images.shape[1:]))}
    measured = {name for name, each in every.items() if isinstance(each.module, Conv) and each.module.size == 3}
    if bare := measured - {each.follows for each in every.values()}:
        raise InputError(
            f"{len(bare)} of {len(measured)} 3x3 convolutions, such as {min(bare)}, have no batch norm behind them, "
            "whose output is the response of figure 7: give a network of which all have, as without pre-activation"
        )
    variables, found = unstack(classifier.variables), []
    for name, each in batch_norm_moments(classifier, images, train, batch_size).items():
        norm: Any = every[name]
        if norm.follows not in measured:
            continue
        scale, bias = (np.float64(named(variables["params"], name)[part]) for part in ("scale", "bias"))
        var = np.float64(named(variables["batch_stats"], name)["var"])
        expected = np.mean(np.square(scale) * var / (var + norm.module.epsilon)) + bias.var()
        found.append(LayerResponse(norm.follows, _std(each.mean_out, each.var_out), float(np.sqrt(expected))))
    return found


def _std(means: np.ndarray, variances: np.ndarray) -> float:
    """Of all channels together."""
    return float(np.sqrt(variances.mean() + means.var()))
