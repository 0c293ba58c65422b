"""Which network of the paper tensors in torch's layout are of, by their names and shapes alone."""

import re

from resnet_jax import models
from resnet_jax.errors import InputError
from resnet_jax.interop.torch_names import Tensors, headless, with_fc
from resnet_jax.interop.torch_weights import LAYOUTS
from resnet_jax.models import ResNet
from resnet_jax.models.zoo import IMAGENET_STAGES


def identify(tensors: Tensors) -> ResNet:
    """The network that weights are of.

    What leaves no trace in the weights (see `torch_weights.conventions`) is torchvision's for ImageNet networks, and
    akamaster's for CIFAR networks; of a plain network and its twin with shortcut A the residual one is returned. Nor
    can anti-aliased pooling (timm's resnetblur18) or dilation be seen, which no network of ours has. Wide and grouped
    networks have other shapes, which `from_torch` names.

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
        if re.search(r"\.downsample\.1\.weight$", name) and tensors[name].ndim == 4:
            raise InputError(
                f"{name} is a convolution: this network pools before it projects a shortcut, as timm's resnet50d does"
            )
    cifar, layers = not sizes[3], 3 if "layer1.0.conv3.weight" in tensors else 2
    depth = layers * sum(sizes) + 2
    if (sizes[:3] != sizes[:1] * 3 or layers != 2) if cifar else sizes != IMAGENET_STAGES.get(depth):
        shown = ", ".join(str(size) for size in sizes if size)
        raise InputError(f"no network of the paper has {shown} blocks of {layers} convolutions in its stages")
    projected = sum(bool(re.search(r"^layer.*\.downsample\.0\.weight$", name)) for name in tensors)
    layout = LAYOUTS["akamaster" if cifar else "torchvision"]
    return models.create(
        f"{'cifar_' if cifar else ''}resnet{depth}",
        num_classes=tensors["fc.weight"].shape[0],
        shortcut="C" if projected == sum(sizes) else "B" if projected else "A",
        **{name: layout[name] for name in ("shortcut_padding", "bottleneck_stride", "stem_pool_padding")},
    )
