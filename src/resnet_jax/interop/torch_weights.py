"""Weights in the layout of PyTorch's ResNets, both ways: torchvision, timm and the CIFAR networks of akamaster.

This file alone knows torch layouts. Their names:

    conv1.weight, bn1.{weight, bias, running_mean, running_var}
    layer{stage}.{block}.conv{i}.weight, layer{stage}.{block}.bn{i}.…
    layer{stage}.{block}.downsample.0.weight (the projection), layer{stage}.{block}.downsample.1.… (its batch norm)
    fc.{weight, bias}

akamaster's networks have `shortcut` where torchvision and timm have `downsample`, and `linear` where those have `fc`.

Convolutions are (features, channels, height, width) there and (height, width, channels, features) here. Flax keeps the
biased running variance and torch the unbiased one; our `BatchNorm` keeps torch's, so statistics are copied as they are.
`num_batches_tracked` has no use here (torch reads it only where momentum is None) and is written as 0.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.zoo import IMAGENET_STAGES

Tensors = Mapping[str, np.ndarray]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}

# The name of a projection beside that of the classifier: torchvision's and timm's, and akamaster's.
_PROJECTIONS = {"fc": "downsample", "linear": "shortcut"}


class Place(NamedTuple):
    """Where a tensor of a torch network lies in ours.

    Attributes:
      path: of the leaf among our variables.
      block: its place on the leaf's leading axis, if that stacks blocks.
      shape: of our array, without that axis.
    """

    path: tuple[str, ...]
    block: int | None
    shape: tuple[int, ...]


def _abstract(model: ResNet) -> dict[Any, Any]:
    """The shape and dtype of every variable, by its path."""
    # The parameters depend on the number of input channels alone, which torch's networks fix to 3.
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return traverse_util.flatten_dict(variables)


def places(model: ResNet, classifier: str = "fc") -> dict[str, Place]:
    """The torch name of every parameter and running statistic of a network, and its place in our variables.

    Args:
      model: the network.
      classifier: the name of the last layer: "fc" (torchvision, timm), or "linear" (akamaster).
    """
    found, projection = {}, _PROJECTIONS[classifier]
    for path, leaf in _abstract(model).items():
        collection, module, *inner, name = path
        end = _LEAVES[collection, name]
        if not module.startswith("stage"):
            found[f"{classifier if module == 'fc' else module}.{end}"] = Place(path, None, leaf.shape)
            continue
        stage, part, layer = module.removeprefix("stage"), inner[0], ".".join(inner[1:])
        layer = layer.replace("shortcut.conv", f"{projection}.0").replace("shortcut.bn", f"{projection}.1")
        if part == "first":
            found[f"layer{stage}.0.{layer}.{end}"] = Place(path, None, leaf.shape)
        else:
            for i in range(leaf.shape[0]):
                found[f"layer{stage}.{i + 1}.{layer}.{end}"] = Place(path, i, leaf.shape[1:])
    return found


# Convolutions, linear layers, and vectors, by their number of axes.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])


def from_torch(tensors: Tensors, model: ResNet) -> dict[str, Any]:
    """Our variables, float32, from a network's tensors by their torch names.

    Args:
      tensors: see `interop.files.read_tensors`.
      model: the network that they are meant for; its fields decide what the weights compute, see `identify`.

    Returns:
      The collections "params" and "batch_stats" as NumPy arrays.

    Raises:
      InputError: a weight is missing, left over, or of another shape; the message names it and what was expected.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    named = places(model, _classifier(tensors))
    for name, place in named.items():
        expected = _torch_shape(place.shape)
        if name not in tensors:
            raise InputError(f"the weights lack {name}, of shape {expected}: are they of another network?")
        if tensors[name].shape != expected:
            raise InputError(f"the weight {name} has the shape {tensors[name].shape}, but {expected} was expected")
    for name in sorted(tensors.keys() - named.keys()):
        raise InputError(f"the weights hold {name}, of shape {tensors[name].shape}, which this network does not have")
    flat = {path: np.empty(leaf.shape, np.float32) for path, leaf in _abstract(model).items()}
    for name, (path, block, shape) in named.items():
        flat[path][... if block is None else block] = tensors[name].transpose(_FROM_TORCH[len(shape)])
    return traverse_util.unflatten_dict(flat)


def to_torch(variables: Mapping[str, Any], model: ResNet, classifier: str = "fc") -> dict[str, np.ndarray]:
    """A network's tensors by their torch names: the inverse of `from_torch`, bit for bit.

    Args:
      variables: with collections "params" and "batch_stats".
      model: the network they belong to.
      classifier: see `places`.
    """
    flat: dict[Any, Any] = traverse_util.flatten_dict(jax.device_get(dict(variables)))
    tensors = {}
    for name, (path, block, shape) in places(model, classifier).items():
        value = np.asarray(flat[path] if block is None else flat[path][block])
        tensors[name] = np.ascontiguousarray(value.transpose(_TO_TORCH[len(shape)]))
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def _classifier(tensors: Tensors) -> str:
    return "linear" if "linear.weight" in tensors else "fc"


def identify(tensors: Tensors) -> dict[str, Any]:
    """What the weights themselves say of their network, and what they cannot say as it is in the layout they are in.

    Where strides lie, where zero channels go and how pooling is aligned leaves no trace in the weights: these are
    torchvision's for ImageNet networks (stride in the 3x3 convolution, v1.5) and akamaster's for CIFAR networks. Nor do
    a plain network's weights differ from those of its residual twin with shortcut A: the residual one is returned.
    Whoever knows better amends the fields.

    Returns:
      The fields "family", "depth", "shortcut", "zero_channels", "stride_in" and "pool_alignment" of `config.model`, and
      "num_classes".

    Raises:
      InputError: they are no ResNet of the paper.
    """
    classifier = f"{_classifier(tensors)}.weight"
    blocks = [_blocks(tensors, stage) for stage in range(1, 5)]
    if "conv1.0.weight" in tensors:
        raise InputError(
            "these networks begin with several 3x3 convolutions (conv1.0.weight …), as timm's resnet50d does, "
            "and the paper's with a single convolution (conv1.weight)"
        )
    if not all(blocks[:3]) or not {classifier, "conv1.weight"} <= tensors.keys():
        raise InputError(
            "these are not the weights of a ResNet: conv1.weight, layer1.0.conv1.weight … and fc.weight were expected, "
            f"and the names are {', '.join(sorted(tensors)[:3]) or 'none'} …"
        )
    for name in sorted(tensors):
        if re.search(r"\.(downsample|shortcut)\.1\.weight$", name) and tensors[name].ndim == 4:
            raise InputError(
                f"{name} is a convolution: this network pools before it projects a shortcut, as timm's resnet50d does, "
                "and the paper's projections come first (downsample.0.weight)"
            )
    layers = 3 if "layer1.0.conv3.weight" in tensors else 2
    cifar = not blocks[3]
    depth = layers * sum(map(len, blocks)) + 2
    sizes = tuple(len(stage) for stage in blocks if stage)
    if sizes != (sizes[:1] * 3 if cifar else IMAGENET_STAGES.get(depth)) or (cifar and layers != 2):
        raise InputError(
            f"no network of the paper has {', '.join(map(str, sizes))} blocks of {layers} convolutions in its stages"
        )
    projected = [name for name in tensors if re.search(r"^layer.*\.(downsample|shortcut)\.0\.weight$", name)]
    return {
        "family": "cifar_resnet" if cifar else "resnet",
        "depth": depth,
        "shortcut": "C" if len(projected) == sum(sizes) else "B" if projected else "A",
        "zero_channels": "both" if cifar else "end",
        "stride_in": "1x1" if cifar else "3x3",
        "pool_alignment": "torch",
        "num_classes": tensors[classifier].shape[0],
    }


def _blocks(tensors: Tensors, stage: int) -> set[str]:
    matches = [re.match(rf"layer{stage}\.(\d+)\.", name) for name in tensors]
    return {match[1] for match in matches if match}
