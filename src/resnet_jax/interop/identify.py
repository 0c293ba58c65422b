"""Which network of the paper tensors in torch's layout are of, by their names and shapes alone."""

import re
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.interop.torch_names import refuse_without_classifier, with_fc
from resnet_jax.interop.torch_weights import LAYOUTS, Tensors
from resnet_jax.models.zoo import IMAGENET_STAGES


def identify(tensors: Tensors) -> dict[str, Any]:
    """What the weights themselves say of their network, and what they cannot say as it is in the layout they are in.

    Where strides lie, where zero channels go and how pooling is aligned leaves no trace in the weights: these are
    torchvision's for ImageNet networks (stride in the 3x3 convolution, v1.5) and akamaster's for CIFAR networks. Nor do
    a plain network's weights differ from those of its residual twin with shortcut A: the residual one is returned. Nor
    does anti-aliased pooling (timm's resnetblur18) or dilation, which no network of ours has. Whoever knows better
    amends the fields.

    Returns:
      The fields "family", "depth", "shortcut", "zero_channels", "stride_in" and "pool_alignment" of `config.model`, and
      "num_classes".

    Raises:
      InputError: they are no ResNet of the paper, or lack the classifier.
    """
    names = ", ".join(sorted(tensors)[:3]) or "none"
    tensors, _ = with_fc(tensors)
    blocks = [_blocks(tensors, stage) for stage in range(1, 5)]
    if "conv1.0.weight" in tensors:
        raise InputError(
            "these networks begin with several 3x3 convolutions (conv1.0.weight …), as timm's resnet50d does, "
            "and the paper's with a single convolution (conv1.weight)"
        )
    if not all(blocks[:3]) or "conv1.weight" not in tensors:
        raise InputError(
            "these are not the weights of a ResNet: conv1.weight, layer1.0.conv1.weight … and fc.weight were expected, "
            f"and the names are {names} …"
        )
    refuse_without_classifier(tensors)
    if not any(name.endswith(".running_mean") for name in tensors):
        raise InputError(
            "these weights have no running statistics (bn1.running_mean …): they are of a network with another "
            "normalisation, as timm's resnet50_gn, and the paper's have batch norms"
        )
    for name in sorted(tensors):
        if re.search(r"\.downsample\.1\.weight$", name) and tensors[name].ndim == 4:
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
    if not cifar and (layers == 3) != (depth >= 50):
        raise InputError(f"the paper's networks of {depth} layers do not have blocks of {layers} convolutions")
    _check_widths(tensors, cifar)
    projected = [name for name in tensors if re.search(r"^layer.*\.downsample\.0\.weight$", name)]
    return {
        "family": "cifar_resnet" if cifar else "resnet",
        "depth": depth,
        "shortcut": "C" if len(projected) == sum(sizes) else "B" if projected else "A",
        **{name: LAYOUTS["akamaster" if cifar else "torchvision"][name] for name in _FIELDS},
        "num_classes": tensors["fc.weight"].shape[0],
    }


_FIELDS = ("zero_channels", "stride_in", "pool_alignment")


def _check_widths(tensors: Tensors, cifar: bool) -> None:
    """Refuses wide and grouped networks and those with another stem, whose names are those of the paper's."""
    stem = tensors["conv1.weight"]
    side = 3 if cifar else 7
    if stem.ndim == 4 and stem.shape[2:] != (side, side):
        raise InputError(
            f"conv1.weight has the shape {stem.shape}: these networks begin with a convolution of "
            f"{stem.shape[2]}x{stem.shape[3]}, and the paper's of {3 if cifar else 4} stages with one of {side}x{side}"
        )
    for stage in range(1, 4 if cifar else 5):
        width = (16 if cifar else 64) * 2 ** (stage - 1)
        for conv in ("conv1", "conv2"):
            name = f"layer{stage}.0.{conv}.weight"
            kernel = tensors.get(name)
            if kernel is None or kernel.ndim != 4:
                continue  # what is missing is named later
            if conv == "conv2" and kernel.shape[1] < kernel.shape[0]:
                raise InputError(
                    f"{name} has the shape {kernel.shape}: its convolution has {kernel.shape[0] // kernel.shape[1]} "
                    "groups, as those of a ResNeXt, and the paper's have none"
                )
            if kernel.shape[0] != width:
                raise InputError(
                    f"{name} has the shape {kernel.shape}: this stage is {kernel.shape[0]} channels wide, as in a wide "
                    f"ResNet, and the paper's is {width}"
                )


def _blocks(tensors: Tensors, stage: int) -> set[str]:
    matches = [re.match(rf"layer{stage}\.(\d+)\.", name) for name in tensors]
    return {match[1] for match in matches if match}
