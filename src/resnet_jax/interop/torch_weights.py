"""Weights in the layout of PyTorch's ResNets, both ways: torchvision, timm and the CIFAR networks of akamaster.

This file knows torch layouts, and `torch_names` what stands before and after their names. The names:

    conv1.weight, bn1.{weight, bias, running_mean, running_var}
    layer{stage}.{block}.conv{i}.weight, layer{stage}.{block}.bn{i}.…
    layer{stage}.{block}.downsample.0.weight (the projection), layer{stage}.{block}.downsample.1.… (its batch norm)
    fc.{weight, bias}

akamaster's networks have `shortcut` where torchvision and timm have `downsample`, and `linear` where those have `fc`.

Convolutions are (features, channels, height, width) there and (height, width, channels, features) here. Flax keeps the
biased running variance and torch the unbiased one; our `BatchNorm` keeps torch's, so statistics are copied as they are.
`num_batches_tracked` has no use here (torch reads it only where momentum is None) and is written as 0.

Tensors do not show everything, see `conventions`. `from_torch` is told whose networks the weights are of and refuses a
network of ours that would compute something else with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from resnet_jax import models
from resnet_jax.errors import InputError
from resnet_jax.interop.torch_names import Tensors, with_fc
from resnet_jax.models import ResNet

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}

# What leaves no trace in the tensors, by whose networks they are; see `conventions`. "torchvision" is also timm's,
# "caffe" that of the paper's release.
_ALL = {"residual": True, "batch_norm_epsilon": 1e-5}
LAYOUTS: dict[str, dict[str, Any]] = {
    "torchvision": {**_ALL, "shortcut_padding": "end", "bottleneck_stride": "3x3", "stem_pool_padding": "torch"},
    "caffe": {**_ALL, "shortcut_padding": "end", "bottleneck_stride": "1x1", "stem_pool_padding": "caffe"},
    "akamaster": {**_ALL, "shortcut_padding": "both", "bottleneck_stride": "1x1", "stem_pool_padding": "torch"},
}


def default_layout(model: ResNet) -> str:
    """Whose the weights of such a network mostly are: "akamaster" of CIFAR networks, "torchvision" of others."""
    return "akamaster" if model.stem == "cifar" else "torchvision"


def conventions(model: ResNet) -> dict[str, Any]:
    """The fields of a network that decide what its weights compute and that its tensors do not show.

    Returns:
      "batch_norm_epsilon"; "stem_pool_padding" of ImageNet's stem; "bottleneck_stride" of bottlenecks; "residual",
      whether there are shortcuts, where they would have no parameters; and "shortcut_padding" of shortcut A.
    """
    found: dict[str, Any] = {"batch_norm_epsilon": model.epsilon}
    if model.stem == "imagenet":
        found["stem_pool_padding"] = model.stem_pool_padding
    if model.bottleneck:
        found["bottleneck_stride"] = model.bottleneck_stride
    if model.shortcut in ("A", None):
        found["residual"] = model.shortcut is not None
    if model.shortcut == "A":
        found["shortcut_padding"] = model.shortcut_padding
    return found


def _abstract(model: ResNet, channels: int) -> dict[Any, Any]:
    """The shape and dtype of every variable of every single block, by its path."""
    # The parameters depend on the number of input channels alone.
    return traverse_util.flatten_dict(models.unstack(models.abstract_variables(model, (32, 32, channels))))


def torch_paths(model: ResNet, layout: str = "torchvision", channels: int = 3) -> dict[str, tuple[str, ...]]:
    """The torch name of every parameter and running statistic of a network, and its path in `models.unstack`."""
    classifier, projection = ("linear", "shortcut") if layout == "akamaster" else ("fc", "downsample")
    found = {}
    for path in _abstract(model, channels):
        collection, module, *inner, name = path
        if module.startswith("stage"):
            number = int(inner[0].removeprefix("block")) - 1
            layer = ".".join(inner[1:])
            layer = layer.replace("shortcut.conv", f"{projection}.0").replace("shortcut.bn", f"{projection}.1")
            module = f"layer{module.removeprefix('stage')}.{number}.{layer}"
        elif module == "fc":
            module = classifier
        found[f"{module}.{_LEAVES[collection, name]}"] = path
    return found


# Convolutions, linear layers, and vectors, by their number of axes.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def from_torch(tensors: Tensors, model: ResNet, layout: str | None = None) -> dict[str, Any]:
    """Our variables, float32, from a network's tensors by their torch names.

    Args:
      tensors: see `interop.files.read_weights`.
      model: the network that they are meant for.
      layout: whose networks they are of, a name in `LAYOUTS`; by default see `default_layout`. "own" says that they
        were trained in a network such as this one.

    Returns:
      The collections "params" and "batch_stats" as NumPy arrays.

    Raises:
      InputError: a weight is missing, left over, or of another shape; the message names it and what was expected. Or
        the network would compute something else with these weights than the network that they are of.
    """
    layout = layout or default_layout(model)
    layouts = {**LAYOUTS, "own": conventions(model)}
    if layout not in layouts:
        raise InputError(f"unknown layout {layout!r}: it is one of {', '.join(layouts)}")
    tensors = with_fc(tensors)
    channels = input_channels(tensors)
    shapes, named = _abstract(model, channels), torch_paths(model, channels=channels)
    missing = [name for name in named if name not in tensors]
    for name, path in named.items():
        shape = shapes[path].shape
        expected = tuple(shape[axis] for axis in _TO_TORCH[len(shape)])
        if name not in tensors:
            raise InputError(
                f"the weights lack {name}, of shape {expected}{_more(missing)}: are they of another network?"
            )
        if tensors[name].shape != expected:
            raise InputError(f"the weight {name} has the shape {tensors[name].shape}, but {expected} was expected")
    if left := sorted(tensors.keys() - named.keys()):
        shape = tensors[left[0]].shape
        raise InputError(f"the weights hold {left[0]}, of shape {shape}{_more(left)}, which this network does not have")
    if differing := {field: ours for field, ours in conventions(model).items() if ours != layouts[layout][field]}:
        wanted = ", ".join(f"{field}={layouts[layout][field]!r}" for field in differing)
        ours = ", ".join(f"{field}={value!r}" for field, value in differing.items())
        raise InputError(
            f"weights of the layout {layout!r} are for networks with {wanted}, but this one has {ours} and would "
            "compute something else: create it as they want, or, if they were trained in such a one, say layout='own'"
        )
    flat = {
        path: np.array(tensors[name].transpose(_FROM_TORCH[tensors[name].ndim]), np.float32, order="C")
        for name, path in named.items()
    }
    for name, path in named.items():
        if not np.isfinite(flat[path]).all():
            raise InputError(f"the weights hold numbers in {name} that are not finite: they are of no use")
    return models.stack(traverse_util.unflatten_dict(flat))


def input_channels(tensors: Tensors) -> int:
    """Of the images that the weights are for: 3, or 1 where they are grey."""
    stem = tensors.get("conv1.weight")
    return 1 if stem is not None and stem.ndim == 4 and stem.shape[1] == 1 else 3


def _more(names: Sequence[str]) -> str:
    """How many there are beside the first, and where."""
    roots = ", ".join(sorted({name.partition(".")[0] for name in names[1:]}))
    return f", and {len(names) - 1} more (in {roots})" if roots else ""


def to_torch(variables: Mapping[str, Any], model: ResNet, layout: str = "torchvision") -> dict[str, np.ndarray]:
    """A network's tensors by their torch names: the inverse of `from_torch`, bit for bit.

    Args:
      variables: with collections "params" and "batch_stats".
      model: the network they belong to.
      layout: whose names are wanted, one of `LAYOUTS`.
    """
    # Channels have no part in names and axes.
    flat: dict[Any, Any] = traverse_util.flatten_dict(models.unstack(jax.device_get(dict(variables))))
    tensors = {}
    for name, path in torch_paths(model, layout).items():
        value = np.asarray(flat[path])
        tensors[name] = np.ascontiguousarray(value.transpose(_TO_TORCH[value.ndim]))
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors
