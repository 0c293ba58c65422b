"""Weights in the layout of PyTorch's ResNets, both ways: torchvision, timm and the CIFAR networks of akamaster.

This file alone knows torch layouts. Their names:

    conv1.weight, bn1.{weight, bias, running_mean, running_var}
    layer{stage}.{block}.conv{i}.weight, layer{stage}.{block}.bn{i}.…
    layer{stage}.{block}.downsample.0.weight (the projection), layer{stage}.{block}.downsample.1.… (its batch norm)
    fc.{weight, bias}, or linear.{weight, bias} in akamaster's networks

Convolutions are (features, channels, height, width) there and (height, width, channels, features) here. Both keep the
unbiased running variance, so statistics are copied as they are; `num_batches_tracked` has no use here and is written as
0.
"""

import re
from collections.abc import Iterator, Mapping
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
    """The torch name of every parameter and running statistic of a network, and its place in our variables."""
    found = {}
    for path, leaf in _abstract(model).items():
        collection, module, *inner, name = path
        end = _LEAVES[collection, name]
        if not module.startswith("stage"):
            found[f"{classifier if module == 'fc' else module}.{end}"] = Place(path, None, leaf.shape)
            continue
        stage, part, layer = module.removeprefix("stage"), inner[0], ".".join(inner[1:])
        layer = layer.replace("shortcut.conv", "downsample.0").replace("shortcut.bn", "downsample.1")
        if part == "first":
            found[f"layer{stage}.0.{layer}.{end}"] = Place(path, None, leaf.shape)
        else:
            for i in range(leaf.shape[0]):
                found[f"layer{stage}.{i + 1}.{layer}.{end}"] = Place(path, i, leaf.shape[1:])
    return found


def _to_torch_axes(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])


def _from_torch_axes(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def from_torch(tensors: Tensors, model: ResNet) -> dict[str, Any]:
    """Our variables, float32, from a network's tensors by their torch names.

    Raises:
      InputError: a weight is missing, left over, or of another shape; the message names it and what was expected.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    named = places(model, _classifier(tensors))
    for name in sorted(named.keys() - tensors.keys()):
        raise InputError(
            f"the weights lack {name}, of shape {_torch_shape(named[name].shape)}: are they of another net?"
        )
    for name in sorted(tensors.keys() - named.keys()):
        raise InputError(f"the weights hold {name}, of shape {tensors[name].shape}, which this network does not have")
    flat = {path: np.empty(leaf.shape, np.float32) for path, leaf in _abstract(model).items()}
    for name, place in named.items():
        expected = _torch_shape(place.shape)
        if tensors[name].shape != expected:
            raise InputError(f"the weight {name} has the shape {tensors[name].shape}, but {expected} was expected")
        value = _from_torch_axes(np.asarray(tensors[name], np.float32))
        flat[place.path][... if place.block is None else place.block] = value
    return traverse_util.unflatten_dict(flat)


def to_torch(variables: Mapping[str, Any], model: ResNet, classifier: str = "fc") -> dict[str, np.ndarray]:
    """A network's tensors by their torch names: the inverse of `from_torch`, bit for bit.

    Args:
      variables: with collections "params" and "batch_stats".
      model: the network they belong to.
      classifier: the name of the last layer: "fc" (torchvision), or "linear" (akamaster).
    """
    flat = traverse_util.flatten_dict(jax.device_get(dict(variables)))
    tensors = {}
    for name, place in places(model, classifier).items():
        value = np.asarray(flat[place.path])
        tensors[name] = np.ascontiguousarray(_to_torch_axes(value if place.block is None else value[place.block]))
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch_axes(np.empty(shape, np.bool_)).shape


def _classifier(tensors: Tensors) -> str:
    return "linear" if "linear.weight" in tensors else "fc"


def strip_prefix(tensors: Tensors) -> dict[str, np.ndarray]:
    """Removes what `torch.nn.DataParallel` puts before every name."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def identify(tensors: Tensors) -> dict[str, Any]:
    """What the weights themselves say of their network: the fields of `config.model` that can be read off.

    Returns:
      "family", "depth", "shortcut", "zero_channels", "stride_in", "pool_alignment" and "num_classes". Where the strides
      lie, where zero channels go and how pooling is aligned leaves no trace in the weights: these are torchvision's for
      ImageNet networks (v1.5) and akamaster's for CIFAR networks.

    Raises:
      InputError: they are no ResNet of the paper.
    """
    blocks = [len(set(_blocks(tensors, stage))) for stage in range(1, 5)]
    classifier = f"{_classifier(tensors)}.weight"
    if not all(blocks[:3]) or classifier not in tensors or "conv1.weight" not in tensors:
        raise InputError(
            f"these are not the weights of a ResNet: conv1, layer1 … and fc were expected, "
            f"and the names begin with {', '.join(sorted(tensors)[:3]) or 'nothing'}"
        )
    layers = 3 if "layer1.0.conv3.weight" in tensors else 2
    cifar = blocks[3] == 0
    depth = layers * sum(blocks) + 2
    stages = (blocks[0],) * 3 if cifar else IMAGENET_STAGES.get(depth)
    if tuple(filter(None, blocks)) != stages or (cifar and layers != 2):
        raise InputError(f"no network of the paper has {blocks} blocks of {layers} layers in its stages")
    projected = {int(stage) for stage in range(1, 5) if f"layer{stage}.0.downsample.0.weight" in tensors}
    everywhere = "layer1.1.downsample.0.weight" in tensors
    return {
        "family": "cifar_resnet" if cifar else "resnet",
        "depth": depth,
        "shortcut": "C" if everywhere else "B" if projected else "A",
        "zero_channels": "both" if cifar else "end",
        "stride_in": "1x1" if cifar else "3x3",
        "pool_alignment": "torch",
        "num_classes": tensors[classifier].shape[0],
    }


def _blocks(tensors: Tensors, stage: int) -> Iterator[str]:
    for name in tensors:
        match = re.match(rf"layer{stage}\.(\d+)\.", name)
        if match:
            yield match[1]
