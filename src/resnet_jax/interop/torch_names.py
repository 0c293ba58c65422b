"""The tensors of one ResNet among those of a file: the prefix of their names, and what their classifier is called."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from resnet_jax.errors import InputError

Tensors = Mapping[str, np.ndarray]

# Every ResNet in torch's names has this weight, whatever stands before its name.
_ANCHOR = "layer1.0.conv1.weight"


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
