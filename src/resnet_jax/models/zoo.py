"""The networks by their names, resnet18 … 152, plain18 …, cifar_resnet20 … 1202, cifar_plain20 …; their variables.

Of the same form are preact18 …, cifar_preact20 … and cifar_highway20 …; of other forms vgg16, vgg19 and highway19.
"""

import dataclasses
import difflib
import numbers
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.models.gates import Gates
from resnet_jax.models.highway import HighwayNet
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.vgg import VGG, VGG_STAGES

# Table 1: blocks in each stage. Depths from 50 on have bottleneck blocks.
IMAGENET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Table 6.
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)

FAMILIES = ("resnet", "plain", "preact", "cifar_resnet", "cifar_plain", "cifar_preact", "cifar_highway")
_OTHERS = ("vgg16", "vgg19", "highway19")
NAMES = (
    tuple(
        f"{family}{depth}"
        for family in FAMILIES
        for depth in (CIFAR_DEPTHS if family.startswith("cifar") else IMAGENET_STAGES)
    )
    + _OTHERS
)


@overload
def create(name: Literal["vgg16", "vgg19"], *, num_classes: int | np.integer | None = None, **fields: Any) -> VGG: ...
@overload
def create(name: Literal["highway19"], *, num_classes: int | np.integer | None = None, **fields: Any) -> HighwayNet: ...
@overload
def create(
    name: str, *, num_classes: int | np.integer | None = None, shortcut: str | None = None, **fields: Any
) -> ResNet: ...
def create(
    name: str, *, num_classes: int | np.integer | None = None, shortcut: str | None = None, **fields: Any
) -> Any:
    """Makes a network of the paper, or one that it is compared with, as a Linen module.

    Args:
      name: "resnet50", "plain34", "cifar_resnet110", "cifar_plain20", …; a CIFAR depth is any 6n + 2 with n >= 1, or
        3n + 2 with block_layers=1, or 9n + 2 with block_layers=3.
        "preact" and "cifar_preact" have pre-activation, "cifar_highway" has `Gates()`; "vgg16", "vgg19" and "highway19"
        are no `ResNet` but a `VGG` and a `HighwayNet`.
      num_classes: by default 1000, or 10 for the CIFAR family and "highway19".
      shortcut: "A", "B" or "C"; by default B for ImageNet and A for CIFAR, as in the paper. Plain networks have none.
      **fields: any other field of the module, of a `ResNet` such as `dtype=jnp.bfloat16` or `bn_group_size=32`.

    Raises:
      ValueError: the name, depth or shortcut does not exist; the message says what does.
      TypeError: no such field, or one that the name decides.

    >>> create("resnet50", num_classes=10, bottleneck_stride="3x3").stage_sizes
    (3, 4, 6, 3)
    >>> create("cifar_resnet20").shortcut
    'A'
    """
    match = re.fullmatch(r"(cifar_)?(resnet|plain|preact|(?<=cifar_)highway)(\d+)", str(name))
    if match is None and name not in _OTHERS:
        raise ValueError(
            f"unknown model {name!r}: {_did_you_mean(_spelled(str(name)))}models are {', '.join(NAMES)}, and any other "
            "CIFAR depth 6n+2 (3n+2 with block_layers=1, 9n+2 with block_layers=3)"
        )
    cifar = name == "highway19" if match is None else match[1] is not None

    if num_classes is None:
        num_classes = 10 if cifar else 1000
    # NumPy's whole numbers too, as of `labels.max() + 1`.
    if isinstance(num_classes, bool) or not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}, but it must be a whole number, at least 1")
    _check_fields(name, ResNet if match else HighwayNet if name == "highway19" else VGG, fields)
    if match is None:
        return _other(name, int(num_classes), shortcut, fields)
    plain, depth = match[2] == "plain", int(match[3])
    if match[2] in ("preact", "highway"):
        fields = {**({"preactivation": True} if match[2] == "preact" else {"gates": Gates()}), **fields}
    if plain and shortcut is not None:
        raise ValueError(f"{name!r} is a plain network and has no shortcuts, but shortcut {shortcut!r} was given")
    if not plain and shortcut is None:
        shortcut = "A" if cifar else "B"
    if shortcut not in ("A", "B", "C", None):
        raise ValueError(
            f"unknown shortcut {shortcut!r}: it is A (zero padding), "
            "B (projection where dimensions grow) or C (all projections)"
        )
    layers = fields.get("block_layers", 2)
    if layers not in (1, 2, 3):
        raise ValueError(f"block_layers is {layers!r}, but it must be one of (1, 2, 3)")
    if cifar:
        step, of_blocks = 3 * layers, "" if layers == 2 else f" with blocks of {layers} layers"
        if depth < step + 2 or (depth - 2) % step:
            near = max(step, step * round((depth - 2) / step)) + 2
            raise ValueError(
                f"CIFAR networks{of_blocks} have {step}n+2 layers, but {name!r} asks for {depth}: the nearest depth is "
                f"{near}" + (f", or did you mean {match[2] + match[3]!r}?" if depth in IMAGENET_STAGES else "")
            )
        stages, widths = ((depth - 2) // step,) * 3, (16, 32, 64)
    else:
        if depth not in IMAGENET_STAGES:
            raise ValueError(
                f"ImageNet networks have {', '.join(map(str, IMAGENET_STAGES))} layers, but {name!r} asks for {depth}"
                + (f": did you mean 'cifar_{name}'?" if depth > 2 and (depth - 2) % (3 * layers) == 0 else "")
            )
        stages, widths = IMAGENET_STAGES[depth], (64, 128, 256, 512)
        if depth < 50 and layers != 2:
            if any(2 * blocks % layers for blocks in stages):
                raise ValueError(f"the stages of {name!r} do not consist of blocks of {layers} layers")
            stages = tuple(2 * blocks // layers for blocks in stages)
    return ResNet(
        stage_sizes=stages,
        widths=widths,
        bottleneck=not cifar and depth >= 50,
        stem="cifar" if cifar else "imagenet",
        num_classes=int(num_classes),
        shortcut=shortcut,
        **fields,
    )


def _spelled(name: str) -> str:
    """The name that one means that differs in case, "_", "-" or a lacking "cifar", else the one most like it, or ""."""
    letters, known = re.sub(r"[-_\s]", "", name.lower()), {each.replace("_", ""): each for each in NAMES}
    match = re.fullmatch(r"(?:cifar)?(resnet|plain|preact|highway)(\d+)", letters)
    if match and letters not in known:
        depth = int(match[2])
        return f"cifar_{match[1]}{depth}" if depth > 2 and depth % 6 == 2 else ""
    return known.get(next(iter(difflib.get_close_matches(letters, known, n=1)), ""), "")


def _did_you_mean(name: str) -> str:
    return f"did you mean {name!r}? " if name else ""


def _check_fields(name: str, kind: type[nn.Module], fields: dict[str, Any]) -> None:
    """Refuses fields that a kind of network lacks, and those that its name decides, with a TypeError."""
    decided = ("parent", "name", "num_classes", "shortcut")
    decided += () if kind is HighwayNet else ("stage_sizes", "widths", "bottleneck", "stem")
    known = [each.name for each in dataclasses.fields(kind) if each.name not in decided]
    for field in fields:
        if field not in known:
            close = next(iter(difflib.get_close_matches(field, known, n=1)), "")
            raise TypeError(f"{name!r} has no field {field!r} to set: {_did_you_mean(close)}it has {', '.join(known)}")


def _other(name: str, num_classes: int, shortcut: str | None, fields: dict[str, Any]) -> VGG | HighwayNet:
    if shortcut is not None:
        raise ValueError(f"{name!r} has no shortcuts of the kinds A, B and C, but shortcut {shortcut!r} was given")
    if name == "highway19":
        return HighwayNet(num_classes=num_classes, **fields)
    return VGG(VGG_STAGES[int(name[3:])], (64, 128, 256, 512, 512), num_classes, **fields)


def family_and_depth(model: ResNet) -> tuple[str, int]:
    """What `create` calls such a network: ("cifar_resnet", 20)."""
    kind = "plain" if model.shortcut is None else "highway" if model.gates else "resnet"
    family = f"{'cifar_' if model.stem == 'cifar' else ''}{'preact' if model.preactivation else kind}"
    return family, (3 if model.bottleneck else model.block_layers) * sum(model.stage_sizes) + 2


def init(model: nn.Module, image_shape: Sequence[int], key: jax.Array) -> dict[str, Any]:
    """Draws the variables of a network: the collections "params" and "batch_stats", nested dicts of float32 arrays.

    Args:
      model: any module that is called as a `ResNet`.
      image_shape: (height, width, channels). Only the channels matter to a `ResNet`, whose maps have any size.
      key: of `jax.random`; the same key draws the same variables on any number of devices.

    >>> from resnet_jax import models
    >>> variables = models.init(models.create("cifar_resnet8"), (32, 32, 3), jax.random.key(0))
    >>> variables["params"]["fc"]["kernel"].shape
    (64, 10)
    """
    return _init(model, tuple(image_shape), key)


def abstract_variables(model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """The shapes and dtypes of what `init` draws, as `jax.ShapeDtypeStruct`s; nothing is computed.

    >>> from resnet_jax import models
    >>> abstract_variables(models.create("cifar_resnet8"), (32, 32, 3))["params"]["fc"]["kernel"]
    ShapeDtypeStruct(shape=(64, 10), dtype=float32)
    """
    return jax.eval_shape(partial(init, model, image_shape), jax.random.key(0))


# Compiled as a part of what calls it, and traced once for all of those.
@partial(jax.jit, static_argnums=(0, 1))
def _init(model: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> Any:
    if isinstance(model, ResNet):
        # The loop draws the same values. For ResNet-50 an H200's compiler takes 10 seconds for it, and 19 without it.
        model = model.clone(unroll=False)
    return model.init(key, jnp.zeros((1, *image_shape)), train=False)
