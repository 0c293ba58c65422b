"""Weights in the layout of PyTorch's ResNets, both ways: torchvision, timm and the CIFAR networks of akamaster.

The names, before which a file may have anything:

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

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from resnet_jax import models
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.models.zoo import IMAGENET_STAGES

Tensors = Mapping[str, np.ndarray]

# Every ResNet in torch's names has this weight, whatever stands before its name.
_ANCHOR = "layer1.0.conv1.weight"

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


def _by_torch_name(variables: Mapping[str, Any], layout: str = "torchvision") -> dict[str, tuple[tuple[str, ...], Any]]:
    """The torch name of every parameter and running statistic, with its path in `models.unstack` and its array."""
    classifier, projection = ("linear", "shortcut") if layout == "akamaster" else ("fc", "downsample")
    found = {}
    flat: dict[Any, Any] = traverse_util.flatten_dict(models.unstack(variables))
    for path, array in flat.items():
        name = re.sub(r"stage(\d+)\.block(\d+)", lambda at: f"layer{at[1]}.{int(at[2]) - 1}", ".".join(path[1:-1]))
        name = name.replace("shortcut.conv", f"{projection}.0").replace("shortcut.bn", f"{projection}.1")
        found[f"{classifier if name == 'fc' else name}.{_LEAVES[path[0], path[-1]]}"] = path, array
    return found


def identify(tensors: Tensors) -> ResNet:
    """The network of the paper that weights are of by their names and shapes.

    What leaves no trace in them (see `conventions`) is torchvision's for ImageNet networks, and akamaster's for CIFAR
    networks; of a plain network and its twin with shortcut A the residual one is returned. Nor can anti-aliased pooling
    (timm's resnetblur18) or dilation be seen, which no network of ours has. Wide and grouped networks have other
    shapes, which `from_torch` names.

    Raises:
      InputError: they are no ResNet of the paper, or lack the classifier.
    """
    names = ", ".join(sorted(tensors)[:3]) or "none"
    tensors = with_fc(tensors)
    if "conv1.0.weight" in tensors:
        raise InputError(
            "these networks begin with several 3x3 convolutions (conv1.0.weight …), as timm's resnet50d does, "
            "and the paper's with one convolution (conv1.weight)"
        )
    blocks = {match[0] for match in (re.match(r"layer[1-4]\.\d+\.", name) for name in tensors) if match}
    sizes = tuple(sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in range(1, 5))
    if not all(sizes[:3]) or "conv1.weight" not in tensors:
        raise InputError(
            "these are not the weights of a ResNet: conv1.weight, layer1.0.conv1.weight … and fc.weight were expected, "
            f"and the names are {names} …"
        )
    if "fc.weight" not in tensors:
        raise headless(tensors)
    if not any(name.endswith(".running_mean") for name in tensors):
        raise InputError(
            "these weights have no running statistics (bn1.running_mean …), as timm's resnet50_gn, and the paper's "
            "networks have batch norms"
        )
    for name in sorted(tensors):
        if name.endswith(".downsample.1.weight") and tensors[name].ndim == 4:
            raise InputError(
                f"{name} is a convolution: this network pools before it projects a shortcut, as timm's resnet50d does"
            )
    cifar, layers = not sizes[3], 3 if "layer1.0.conv3.weight" in tensors else 2
    depth = layers * sum(sizes) + 2
    if (sizes[:3] != sizes[:1] * 3 or layers != 2) if cifar else sizes != IMAGENET_STAGES.get(depth):
        shown = ", ".join(str(size) for size in sizes if size)
        raise InputError(f"no network of the paper has {shown} blocks of {layers} convolutions in its stages")
    projected = sum(name.endswith(".downsample.0.weight") for name in tensors)
    layout = LAYOUTS["akamaster" if cifar else "torchvision"]
    return models.create(
        f"{'cifar_' if cifar else ''}resnet{depth}",
        num_classes=tensors["fc.weight"].shape[0],
        shortcut="C" if projected == sum(sizes) else "B" if projected else "A",
        **{name: layout[name] for name in ("shortcut_padding", "bottleneck_stride", "stem_pool_padding")},
    )


# Convolutions, linear layers, and vectors, by their number of axes.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def from_torch(tensors: Tensors, model: ResNet, layout: str | None = None) -> dict[str, Any]:
    """The variables of a network, float32 NumPy arrays, from tensors by their torch names.

    Args:
      tensors: see `interop.files.read_weights`.
      model: the network that they are meant for.
      layout: whose networks they are of, a name in `LAYOUTS`; by default see `default_layout`. "own" says that they
        were trained in a network such as this one.

    Raises:
      InputError: a weight is missing, left over, or of another shape; the message names it and what was expected. Or
        the network would compute something else with these weights than the network that they are of.
    """
    layout = layout or default_layout(model)
    layouts = {**LAYOUTS, "own": conventions(model)}
    if layout not in layouts:
        raise InputError(f"unknown layout {layout!r}: it is one of {', '.join(layouts)}")
    tensors = with_fc(tensors)
    # Shapes depend on the channels of the images, and not on their size.
    named = _by_torch_name(models.abstract_variables(model, (32, 32, input_channels(tensors))))
    missing = [name for name in named if name not in tensors]
    for name, (_, ours) in named.items():
        expected = tuple(ours.shape[axis] for axis in _TO_TORCH[ours.ndim])
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
    flat = {}
    for name, (path, _) in named.items():
        flat[path] = np.array(tensors[name].transpose(_FROM_TORCH[tensors[name].ndim]), np.float32, order="C")
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


def to_torch(variables: Mapping[str, Any], *, layout: str = "torchvision") -> dict[str, np.ndarray]:
    """A network's tensors by their torch names: the inverse of `from_torch`, bit for bit.

    Args:
      variables: of a `ResNet`, with the collections "params" and "batch_stats".
      layout: whose names are wanted, one of `LAYOUTS`.
    """
    tensors = {}
    for name, (_, value) in _by_torch_name(jax.device_get(dict(variables)), layout).items():
        tensors[name] = np.ascontiguousarray(np.asarray(value).transpose(_TO_TORCH[np.ndim(value)]))
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def below_prefix(
    tensors: Tensors, prefix: str | None = None, log: Callable[[str], None] = lambda line: None
) -> dict[str, np.ndarray]:
    """The tensors of a ResNet without what stands before their names, such as "state_dict.module._orig_mod.".

    Where a file holds a network and its running average (its prefix names "ema" or "swa"), the average is taken, as
    timm does; else `prefix`, or the first parts of it, says which of several networks is wanted, or an InputError which
    there are. Where it holds no ResNet, all tensors are returned as they are.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != "n_averaged"}
    prefixes = sorted(name.removesuffix(_ANCHOR) for name in tensors if f".{name}".endswith(f".{_ANCHOR}"))
    if not prefixes:
        return tensors
    shown, chosen = ", ".join(each.rstrip(".") or "(none)" for each in prefixes), prefixes
    if prefix is not None:
        wanted = prefix.rstrip(".") + "." if prefix else ""
        chosen = [each for each in prefixes if each == wanted] or [each for each in prefixes if each.startswith(wanted)]
        if len(chosen) != 1:
            raise InputError(f"there is not one network with the prefix {prefix!r}: the prefixes are {shown}")
    elif len(prefixes) > 1:
        chosen = [each for each in prefixes if re.search(r"(^|[._])(ema|swa|averaged?)([._]|$)", each)]
        if len(chosen) != 1:
            raise InputError(f"there are {len(prefixes)} networks: choose the prefix of one of them: {shown}")
        log(f"of {shown} the average was taken, {chosen[0].rstrip('.')}: another is taken by its prefix")
    # Of each tensor the network with the longest prefix: "" and "ema." stand in one file.
    owner = {name: max((each for each in prefixes if name.startswith(each)), key=len, default=None) for name in tensors}
    found = {name.removeprefix(chosen[0]): tensors[name] for name in tensors if owner[name] == chosen[0]}
    beside = sorted(name for name in tensors if owner[name] is None)
    if beside and not _linear_layers(found):
        raise headless(found | {name: tensors[name] for name in beside})
    if beside:
        log(f"left out, as no part of the network: {_few(beside)}")
    return found


def with_fc(tensors: Tensors, log: Callable[[str], None] = lambda line: None) -> dict[str, np.ndarray]:
    """The tensors as torchvision names them: the classifier "fc", the projections "downsample", no counters.

    A classifier of one linear layer is recognised by any name and at any depth, as behind dropout in a Sequential; one
    of several is an InputError.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    layers = _linear_layers(kept)
    known = next((layer for layer in ("fc", "linear", *layers) if layer in layers), None)
    if known not in ("fc", "linear", None):
        parts = {name for name in kept if name.startswith(f"{known.partition('.')[0]}.")}
        if len(layers) > 1 or parts - {f"{known}.weight", f"{known}.bias"}:
            names = [name for name in kept if name in parts or name.rpartition(".")[0] in layers]
            shapes = [f"{name} {kept[name].shape}" for name in sorted(names)]
            raise InputError(f"the classifier must be one linear layer, and these weights have {_few(shapes, 6)}")
        log(f"the classifier was found as {known}")
    names = {f"{known}.{end}": f"fc.{end}" for end in ("weight", "bias")}
    return {
        names.get(name, re.sub(r"^(layer\d+\.\d+\.)shortcut\.", r"\1downsample.", name)): tensor
        for name, tensor in kept.items()
    }


def headless(tensors: Tensors) -> InputError:
    """The error that the classifier is missing; it names what there is beside the backbone."""
    kernels = [tensor for name, tensor in tensors.items() if name.startswith("layer") and tensor.ndim == 4]
    features, beside = max((kernel.shape[0] for kernel in kernels), default=0), sorted(_outside_backbone(tensors))
    there = f"; beside the backbone there are {_few(beside)}" if beside else ""
    return InputError(
        f"the classifier is missing, fc.weight of shape (classes, {features}) and fc.bias (classes,): "
        f"these are the weights of a headless backbone{there}"
    )


def _outside_backbone(names: Collection[str]) -> list[str]:
    return [name for name in names if not re.match(r"(conv1|bn1|layer\d+)\.", name)]


def _linear_layers(tensors: Tensors) -> list[str]:
    outside = _outside_backbone(tensors)
    return [name.removesuffix(".weight") for name in outside if name.endswith(".weight") and tensors[name].ndim == 2]


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
