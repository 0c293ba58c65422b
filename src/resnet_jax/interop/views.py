"""How images were shown to a network: the statistics of pixels that everybody uses, and what timm's tables say."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.errors import InputError

# The CIFAR sets' own, as chenyaofo rounds them.
CIFAR_STATISTICS = {
    "10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


def pixel_statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None, where: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A mean and a standard deviation as people write them -> of pixels from 0 to 255, float32 (channels,).

    They are written of pixels from 0 to 1, as by torchvision and timm; one above 1 says that both are of pixels from
    0 to 255, as Caffe's. One number stands for all channels.

    Raises:
      InputError: not one or three finite numbers, or a standard deviation that is not above 0.
    """
    # Of pixels from 0 to 1 neither is above 1.
    given = [value for values in (mean, std) if values is not None for value in values]
    scale = 1 if any(isinstance(value, (int, float)) and value > 1 for value in given) else 255
    found = []
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            found.append(None)
            continue
        right = len(values) in (1, 3) and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
        if not right or (name == "std" and min(values) <= 0) or (name == "mean" and min(values) < 0):
            wanted = "three numbers (or one), one for each channel" + (", above 0" if name == "std" else "")
            raise InputError(f"{where}{name} is {','.join(map(str, values))}, but it must be {wanted}")
        found.append(scale * np.array(values, np.float32))
    return found[0], found[1]


def timm_view(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of `interop.convert.Stated` that timm's table `pretrained_cfg` sets.

    Raises:
      InputError: an interpolation or a shape of images that this package does not have; begins with `where`.
    """
    fields: dict[str, Any] = {}
    mean, std = pixel_statistics(cfg.get("mean"), cfg.get("std"), where)
    fields |= {name: value for name, value in (("mean", mean), ("std", std)) if value is not None}
    if "interpolation" in cfg:
        if cfg["interpolation"] not in INTERPOLATIONS:
            raise InputError(
                f"{where}interpolation is {cfg['interpolation']!r}, and this package has {', '.join(INTERPOLATIONS)}: "
                "write one of them there"
            )
        fields["interpolation"] = cfg["interpolation"]
    if "input_size" in cfg:
        _, height, width = cfg["input_size"]
        if height != width:
            raise InputError(
                f"{where}input_size is {cfg['input_size']}, and images here are square: write a square there"
            )
        fields["image_size"] = int(height)
        if "crop_pct" in cfg:
            fields["resize"] = resized(height, cfg["crop_pct"])
    return fields


def resized(side: int, share: float) -> int:
    """The shorter side that timm resizes to before it cuts out the centre: 224 at 0.95 -> 235."""
    return math.floor(side / share)


def test_view(cfg: Mapping[str, Any]) -> list[str]:
    """A line about the larger images that timm names for tests, where it does."""
    if not cfg.get("test_input_size"):
        return []
    side = int(cfg["test_input_size"][1])
    resize = resized(side, cfg.get("test_crop_pct") or cfg.get("crop_pct", 0.875))
    return [f"config.json also names larger images for tests: --image_size={side} --resize={resize}"]
