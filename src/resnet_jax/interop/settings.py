"""What counts where sources say different things of a network: each field's value, and where it is from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import models
from resnet_jax.checkpoint import Card
from resnet_jax.configs import Config, base
from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.data.prepared import imagenet_class_names
from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.interop import origin, torch_weights
from resnet_jax.interop.origin import Statement
from resnet_jax.interop.views import pixel_statistics
from resnet_jax.models import ResNet

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MODEL_FIELDS = ("zero_channels", "stride_in", "pool_alignment", "batch_norm_epsilon")
VIEW_FIELDS = ("mean", "std", "channel_order", "image_size", "resize", "interpolation")

_CHOICES = {
    "zero_channels": ("end", "both"),
    "stride_in": ("1x1", "3x3"),
    "pool_alignment": ("caffe", "torch"),
    "channel_order": ("rgb", "bgr"),
    "interpolation": tuple(INTERPOLATIONS),
}


def checked(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What the user states, each value one that there is; "mean" and "std" of pixels from 0 to 255."""
    given = {name: value for name, value in stated.items() if value is not None}
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise InputError(f"--{name}={given[name]} is not one of {', '.join(choices)}")
    if "model" in given:
        model, what = origin.network_of(given["model"])
        if model is None and what:
            raise InputError(
                f"--model={given['model']} names a network with {what}, which this package does not build; "
                f"its models are {', '.join(models.NAMES)}"
            )
        try:
            models.create(given["model"])
        except ValueError as error:
            raise InputError(f"--model={given['model']}: {error}") from error
    epsilon = given.get("batch_norm_epsilon")
    if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
        raise InputError(f"--batch_norm_epsilon={epsilon} must be a number above 0")
    for name in ("image_size", "resize"):
        if name in given and given[name] < 1:
            raise InputError(f"--{name}={given[name]} must be at least 1")
    if ("mean" in given) != ("std" in given):
        raise InputError("--mean and --std belong together: give both")
    if "mean" in given:
        given["mean"], given["std"] = pixel_statistics(given["mean"], given["std"], "--")
    if "class_names" in given:
        given["class_names"] = tuple(given["class_names"])
    return given


def refusals(
    source: Path, found: Sequence[Statement], given: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[str]:
    """Lines about networks that a source names and the user gainsays.

    Raises:
      InputError: the user does not.
    """
    trusted = dict(given)
    for each in found:
        if not each.refusal:
            # What this package wrote into a file counts more than how the file is called.
            trusted = {**(each.fields if each.source == origin.OWN else {}), **trusted}
            continue
        if each.answer in trusted:
            stated = "--" if each.answer in given else ""
            yield f"{stated}{each.answer}={trusted[each.answer]} is used, although by {each.source}: {each.refusal}"
            continue
        own = f"{facts['family']}{facts['depth']}"
        advice = f". If the weights are those of a {own} all the same, say so: --model={own}"
        raise InputError(f"{source}, by {each.source}: {each.refusal}{advice if each.answer == 'model' else ''}")


def assumed_of(facts: Mapping[str, Any], channels: int) -> list[Statement]:
    """What is so where nobody says otherwise."""
    cifar = facts["family"].startswith("cifar")
    whose = "akamaster" if cifar else "torchvision"
    mean, std = pixel_statistics(IMAGENET_MEAN, IMAGENET_STD, "")
    fields = {name: torch_weights.LAYOUTS[whose][name] for name in MODEL_FIELDS if name != "batch_norm_epsilon"}
    fields |= {"batch_norm_epsilon": torch_weights.LAYOUTS[whose]["epsilon"], "channel_order": "rgb"}
    if channels == 3:
        fields |= {"mean": mean, "std": std}
    fields |= (
        {"image_size": 32, "resize": None, "interpolation": "bicubic"}
        if cifar
        else {"image_size": 224, "resize": 256, "interpolation": "bilinear"}
    )
    classes = facts["num_classes"]
    # Torchvision and timm sort ImageNet's classes by their synsets, as everybody does.
    known = {(True, 10): _CIFAR10, (False, 1000): imagenet_class_names()}
    names = known.get((cifar, classes)) or tuple(f"class {i}" for i in range(classes))
    dataset = ("cifar10" if classes == 10 else "cifar100") if cifar else "imagenet2012"
    unseen = "that nothing is anti-aliased or dilated, which tensors do not show, is assumed"
    return [
        Statement(f"the tensors; {unseen}", {"model": f"{facts['family']}{facts['depth']}"}),
        Statement(f"assumed of {classes} classes", {"class_names": names, "dataset": dataset}),
        Statement(f"assumed, as {whose}'s", fields),
    ]


class Setting(NamedTuple):
    """A field's value, where it is from, and what sources of less trust say instead."""

    value: Any
    source: str
    others: tuple[tuple[str, Any], ...]


def settle(stated: Sequence[Statement], assumed: Sequence[Statement]) -> dict[str, Setting]:
    """What counts of each field: the first statement that has it."""
    settled: dict[str, Setting] = {}
    for each in (*stated, *assumed):
        for name, value in each.fields.items():
            if name not in settled:
                others = [(other.source, other.fields[name]) for other in stated if name in other.fields]
                differing = [other for other in others if not np.array_equal(other[1], value)]
                settled[name] = Setting(value, each.source, tuple(differing))
    side, resize = settled["image_size"], settled["resize"]
    if side.source != resize.source and resize.source != "given" and resize.value is not None:
        # Another side than the one that the resizing belongs to.
        theirs = next(each for each in (*stated, *assumed) if each.source == resize.source)
        value = side.value * resize.value // theirs.fields.get("image_size", side.value)
        settled["resize"] = resize._replace(value=value, source=f"in proportion, {resize.source}")
    return settled


def check_facts(settings: Mapping[str, Setting], facts: Mapping[str, Any], source: Path) -> None:
    """Refuses statements that the tensors gainsay."""
    own, model = f"{facts['family']}{facts['depth']}", settings["model"]
    plain = own.replace("resnet", "plain") if facts["shortcut"] == "A" else own
    if model.value not in (own, plain):
        raise InputError(
            f"{source} holds the weights of a {own} by their names and shapes, but the model is {model.value} "
            f"({model.source})"
        )
    for name, count in (("num_classes", lambda value: value), ("class_names", len)):
        if name in settings and count(settings[name].value) != facts["num_classes"]:
            raise InputError(
                f"{source} has {facts['num_classes']} classes, but {name} ({settings[name].source}) has "
                f"{count(settings[name].value)}: is it of other weights?"
            )
    if "mean" not in settings:
        raise InputError(f"{source} is for images of one channel: state their --mean and --std")
    side, resize = settings["image_size"], settings["resize"]
    if resize.value is not None and resize.value < side.value:
        raise InputError(
            f"--resize={resize.value} ({resize.source}) is less than --image_size={side.value} ({side.source}): "
            "no window of that size can be cut from the image"
        )


def config_of(settings: Mapping[str, Setting], facts: Mapping[str, Any]) -> Config:
    """The config of a run whose network this is."""
    config = base.get_config()
    name = settings["model"].value
    depth = facts["depth"]
    config.model.update(
        family=name.removesuffix(str(depth)),
        depth=depth,
        shortcut=facts["shortcut"],
        **{field: settings[field].value for field in MODEL_FIELDS},
    )
    image = np.ndim(settings["mean"].value) == 3
    config.stream.update(
        crop="area",
        normalization="mean_image" if image else "channels",
        color_noise=0.0,
        channel_order=settings["channel_order"].value,
        interpolation=settings["interpolation"].value,
        side=settings["image_size"].value,
        shorter_side=settings["resize"].value or settings["image_size"].value,
    )
    config.dataset.name = settings["dataset"].value
    return config


def preprocessing_of(settings: Mapping[str, Setting], channels: int) -> tuple[Preprocessing, Card]:
    """How images are pre-processed, and what a checkpoint says of the network."""
    value = {name: setting.value for name, setting in settings.items()}
    size = value["image_size"]
    shape = (size, size, channels)

    def each_channel(name: str) -> jax.Array:
        array = np.asarray(value[name], np.float32)
        if array.ndim == 3:
            return jnp.asarray(array)
        if len(array) not in (1, channels):
            raise InputError(f"--{name} has {len(array)} numbers, but the images have {channels} channels")
        whole = np.broadcast_to(array, (channels,)) if settings[name].source == "given" else array
        # Those that are known are of RGB, and the user's and ours in the network's order.
        if value["channel_order"] == "bgr" and settings[name].source not in ("given", origin.OWN):
            whole = whole[::-1]
        return jnp.asarray(whole[None, None])

    preprocessing = Preprocessing(
        each_channel("mean"),
        each_channel("std"),
        channel_order=value["channel_order"],
        shorter_side=value["resize"],
        interpolation=value["interpolation"],
    )
    return preprocessing, Card(tuple(value["class_names"]), shape, data_crc=0)


def lines_of(settings: Mapping[str, Setting], model: ResNet) -> Iterator[str]:
    """Each setting that matters to the network, and where it is from."""
    used = torch_weights.conventions(model)
    relevant = ["model", *(field for field in MODEL_FIELDS if field in used), "batch_norm_epsilon", *VIEW_FIELDS]
    values = {name: setting.value for name, setting in settings.items()}
    texts = origin.shown(values)
    for name in (*relevant, "class_names"):
        setting = settings[name]
        if setting.value is None:
            continue
        others = "".join(
            f"; {source} says {origin.shown({**values, name: other})[name]}" for source, other in setting.others
        )
        yield f"{name}={texts[name]} ({setting.source}{others})"
