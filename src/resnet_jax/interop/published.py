"""What publishers of weights are known for: the names of their networks and files, and how they showed images."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_jax.errors import InputError

# The CIFAR sets' own, as chenyaofo rounds them.
CIFAR_STATISTICS = {
    "10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


class Statement(NamedTuple):
    """What one source says of a file of weights.

    `fields` are the arguments of `load_torch` that it knows, "num_classes" and "dataset"; "mean" and "std" are arrays,
    of pixels from 0 to 255. `refusal` says why the network it names cannot be built here; with the field `answer` the
    user says that it is another one all the same.
    """

    source: str
    fields: Mapping[str, Any]
    refusal: str = ""
    answer: str = "model"


def pixel_statistics(mean: Any, std: Any, where: str = "") -> dict[str, np.ndarray]:
    """A mean and a standard deviation as people write them -> of pixels from 0 to 255, float32 (channels,).

    They are written of pixels from 0 to 1, as by torchvision and timm; one above 1 says that both are of pixels from
    0 to 255, as Caffe's. One number stands for all channels. What is None is left out.

    Raises:
      InputError: not one or three finite numbers, or a standard deviation that is not above 0; begins with `where`.
    """
    found = {}
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        try:
            array = np.atleast_1d(np.asarray(values, np.float32))
        except (TypeError, ValueError):  # no numbers
            array = np.empty(0, np.float32)
        right = array.shape in ((1,), (3,)) and np.isfinite(array).all() and array.min() >= 0
        if not right or (name == "std" and not array.all()):
            wanted = "three numbers (or one), one for each channel" + (", above 0" if name == "std" else "")
            raise InputError(f"{where}{name} is {','.join(map(str, np.ravel(values)))}, but it must be {wanted}")
        found[name] = array
    scale = 1 if any(array.max() > 1 for array in found.values()) else 255
    return {name: scale * array for name, array in found.items()}


def network_of(architecture: str) -> tuple[str | None, str]:
    """The network that a name in timm or torchvision stands for: its name here, or None; and what sets it apart from
    the paper's, or "". "gluon_resnet50_v1b" -> ("resnet50", ""); "resnetblur18" -> (None, "anti-aliased …").
    """
    name = architecture.lower().partition(".")[0]
    plain = re.fullmatch(r"(?:gluon_|tv_|ssl_|swsl_)?resnet(18|34|50|101|152)(?:_v1b)?", name)
    return (f"resnet{plain[1]}", "") if plain else (None, _variant(name))


# Other networks, of which some share all names and shapes with the paper's.
_VARIANTS = {
    r"resnet_?blur|blur_?(pool|resnet)|resnet\d+_?blur(?!r)": "anti-aliased pooling and strides (BlurPool)",
    r"anti-?_?alias|resnet_?aa\d|(?<![a-z])aa_?resnet": "anti-aliased strides",
    r"dilat|output_?stride|(?<![a-z0-9])os(8|16)(?!\d)|(?<![a-z])dc5|deeplab|(?<![a-z])fcn_|pspnet": "dilation",
    r"resne[xs]t|res2net": "grouped convolutions",
    r"wide_?res|(?<![a-z])wrn": "wider stages",
    r"(?<![a-z])(legacy_)?(se|eca|ge|gc|sk|cbam|bam|bat|lambda|halo|nf)_?resnet": "attention or another block",
    r"resnet_?v2|preact": "pre-activation blocks",
    r"resnet_?rs": "another stem and attention",
    r"resnet\d+_?(gn|evo\w+|ibn)(?![a-z])|ibn_?resnet": "another normalisation",
    r"resnet\d+[cdstq](?![a-z])|v1[cdse](?![a-z])": "another stem or pooling in the shortcuts",
}


def _variant(name: str) -> str:
    return next((what for pattern, what in _VARIANTS.items() if re.search(pattern, name)), "")


_HASH = r"-[0-9a-f]{8}(?![0-9a-f])"
_DEPTH = r"resnet(?P<depth>18|34|50|101|152)"
_TORCHVISION_V1 = "5c106cde|f37072fd|333f7ec4|b627a593|19c8e357|0676ba61|5d3b4d8f|63fe2227|b121ed2d|394f9c45"
_TIMM = "a1_0|a2_0|b1k|b2k|c1|c2|d|ram"
# By the names that publishers gave their files: whose they are, image size, resizing (timm rounds 224 / 0.95 and
# 160 / 0.95 down) and interpolation.
_PUBLISHED = {
    rf"{_DEPTH}(-(11ad3fa6|cd907fc2|f82ba261)|[\w.]*imagenet1k_v2|\.tv2_in1k)": (
        "torchvision's V2",
        224,
        232,
        "bilinear",
    ),
    rf"{_DEPTH}(-({_TORCHVISION_V1})|[\w.]*imagenet1k_v1|\.tv_in1k)": ("torchvision's V1", 224, 256, "bilinear"),
    rf"{_DEPTH}(_a3_0{_HASH}|\.a3_in1k)": ("timm's A3", 160, 168, "bicubic"),
    rf"{_DEPTH}(_({_TIMM}){_HASH}|\.({_TIMM.replace('_0', '')})_in1k)": ("timm's", 224, 235, "bicubic"),
    rf"gluon_{_DEPTH}_v1b{_HASH}": ("Gluon's", 224, 256, "bicubic"),
}


def named(name: str) -> Statement | None:
    """What the name of a file says that a publisher of weights gave it."""
    source, name = f"the name {name}", name.lower()
    if what := _variant(name):
        return Statement(source, {}, f"that stands for a network with {what}, which none of this package has")
    if re.search(r"caffe|msra", name) and "resnet" in name:
        return Statement(
            source,
            {},
            "Caffe's networks stride in 1x1 convolutions and take BGR pixels from 0 to 255. State it: "
            "--bottleneck_stride=1x1 --stem_pool_padding=caffe|torch --channel_order=bgr "
            "--mean=103.53,116.28,123.675 --std=1",
            "bottleneck_stride",
        )
    imagenet = pixel_statistics(IMAGENET_MEAN, IMAGENET_STD)
    for pattern, (whose, *view) in _PUBLISHED.items():
        if match := re.search(pattern, name):
            fields = dict(zip(("image_size", "resize", "interpolation"), view, strict=True))
            return Statement(f"the name of {whose} weights", {"model": f"resnet{match['depth']}", **imagenet, **fields})
    if match := re.search(rf"(?<![a-z_])resnet(20|32|44|56|110|1202){_HASH}", name):
        fields = {"model": f"cifar_resnet{match[1]}", "shortcut_padding": "both", **imagenet}
        return Statement("the name of akamaster's weights", fields)
    if match := re.search(rf"cifar(10|100)_resnet(\d+){_HASH}", name):
        fields = {"model": f"cifar_resnet{match[2]}", **pixel_statistics(*CIFAR_STATISTICS[match[1]])}
        return Statement("the name of chenyaofo's weights", fields)
    return None
