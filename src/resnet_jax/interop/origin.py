"""What is known of a file of weights beside its tensors, which show neither strides nor pooling nor pixels.

In falling order of trust: what the user says; the metadata that this package writes into .safetensors; an entry such as
"arch" of a training checkpoint; timm's config.json beside the file; a file name that a publisher gave it; the habit of
torchvision, or of akamaster for CIFAR networks. Each of them is a `Statement`.
"""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_jax.data.tfds import imagenet_class_names
from resnet_jax.errors import InputError
from resnet_jax.interop import torch_weights
from resnet_jax.interop.published import Statement, named, network_of, pixel_statistics
from resnet_jax.models import ResNet
from resnet_jax.models.zoo import family_and_depth

# The fields of a statement that say what a network computes (a `ResNet`'s have no "batch_norm_"), and how images are
# shown to it.
MODEL_FIELDS = ("shortcut_padding", "bottleneck_stride", "stem_pool_padding", "batch_norm_epsilon")
VIEW_FIELDS = ("mean", "std", "channel_order", "image_size", "resize", "interpolation")

# The key of the metadata that this package writes, and its version. Version 1 had other names for `MODEL_FIELDS`.
_KEY, _VERSION = "resnet_jax", 2
_OLD_NAMES = dict(
    zip(("zero_channels", "stride_in", "pool_alignment", "batch_norm_epsilon"), MODEL_FIELDS, strict=True)
)
# The source of the statement that is made from it.
OWN = "the file's metadata"

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def statements(path: Path, metadata: Mapping[str, str], log: Callable[[str], None]) -> list[Statement]:
    """What metadata, config.json and the name of a file say, in falling order of trust; InputError if garbled."""
    found = [_own(metadata), _entry(metadata), _config_json(path.parent / "config.json", log), named(path.name)]
    return [each for each in found if each is not None]


def assumed(network: ResNet, channels: int) -> list[Statement]:
    """What is so where nobody says otherwise; of grey images nothing is known of "mean" and "std"."""
    whose, classes, cifar = torch_weights.default_layout(network), network.num_classes, network.stem == "cifar"
    fields = {name: torch_weights.LAYOUTS[whose][name] for name in MODEL_FIELDS}
    fields |= pixel_statistics(IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else {}
    size, resize, interpolation = (32, None, "bicubic") if cifar else (224, 256, "bilinear")
    fields |= {"channel_order": "rgb", "image_size": size, "resize": resize, "interpolation": interpolation}
    # Torchvision and timm sort ImageNet's classes by their synsets, as everybody does.
    known = {(True, 10): _CIFAR10, (False, 1000): imagenet_class_names()}
    names = known.get((cifar, classes)) or tuple(f"class {i}" for i in range(classes))
    dataset = ("cifar10" if classes == 10 else "cifar100") if cifar else "imagenet2012"
    unseen = "that nothing is anti-aliased or dilated, which tensors do not show, is assumed"
    return [
        Statement(f"the tensors; {unseen}", {"model": "{}{}".format(*family_and_depth(network))}),
        Statement(f"assumed of {classes} classes", {"class_names": names, "dataset": dataset}),
        Statement(f"assumed, as {whose}'s", fields),
    ]


def shown(fields: Mapping[str, Any]) -> dict[str, str]:
    """Fields as the flags of `convert` take them; of a mean image the mean of each channel."""
    texts = {name: str(value) for name, value in fields.items()}
    if "mean" in fields and "std" in fields:
        mean, std = (np.asarray(fields[name], np.float64) for name in ("mean", "std"))
        mean = mean.mean((0, 1)) if mean.ndim == 3 else mean
        # As torchvision's where that can be told from Caffe's, see `pixel_statistics`.
        scale = 1 if std.max() <= 2 and mean.max() > 1 else 255
        for name, values in (("mean", mean), ("std", std)):
            texts[name] = ",".join(f"{value / scale:.6g}" for value in values.ravel())
    if names := fields.get("class_names"):
        texts["class_names"] = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, … {names[-1]}"
    return texts


def own_metadata(model: ResNet, fields: Mapping[str, Any], dataset: str | None) -> dict[str, str]:
    """The metadata with which a .safetensors file comes back as the network it was; `_own` reads it.

    "mean" and "std" are (height, width, channels) or (1, 1, channels) here.
    """
    family, depth = family_and_depth(model)
    named = {"family": family, "depth": depth, "shortcut": model.shortcut}
    view = {name: fields[name] for name in VIEW_FIELDS}
    for name in ("mean", "std"):
        array = np.asarray(fields[name], "<f4")
        if array.shape[:2] == (1, 1):
            view[name] = array.ravel().tolist()
        else:
            view[name] = {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}
    content = {
        "version": _VERSION,
        "model": named | {name: fields[name] for name in MODEL_FIELDS},
        "preprocessing": view,
        "class_names": list(fields["class_names"]),
        **({} if dataset is None else {"dataset": dataset}),
    }
    return {_KEY: json.dumps(content, ensure_ascii=False)}


def _own(metadata: Mapping[str, str]) -> Statement | None:
    if _KEY not in metadata:
        return None
    try:
        content = json.loads(metadata[_KEY])
        if content["version"] in (1, _VERSION):
            model, view = content["model"], content["preprocessing"]
            model = {_OLD_NAMES.get(name, name): value for name, value in model.items()}
            fields = {"model": f"{model['family']}{model['depth']}", "class_names": tuple(content["class_names"])}
            fields |= {name: model[name] for name in MODEL_FIELDS} | {name: view[name] for name in VIEW_FIELDS}
            fields |= {name: _decoded(view[name]) for name in ("mean", "std")}
            fields |= {"dataset": content["dataset"]} if "dataset" in content else {}
            return Statement(OWN, fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"its metadata {_KEY!r} is damaged: {error!r}") from error
    raise InputError(
        f"its metadata has version {content['version']}, and this resnet_jax reads versions up to {_VERSION}: update it"
    )


def _decoded(value: Any) -> np.ndarray:
    if isinstance(value, dict):
        value = np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"])
    return np.array(value, np.float32)


def _entry(metadata: Mapping[str, str]) -> Statement | None:
    """What training scripts write beside the weights: PyTorch's example and timm an "arch"."""
    for key in ("arch", "architecture", "model_name"):
        model, what = network_of(metadata.get(key, ""))
        source = f"the entry {key}={metadata.get(key)!r}"
        if model is not None:
            return Statement(source, {"model": model})
        if what:
            return Statement(source, {}, f"that network has {what}, which none of this package has")
    return None


def _config_json(path: Path, log: Callable[[str], None]) -> Statement | None:
    """The config.json that timm writes beside weights, of its present and of its older form."""
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        log(f"{path} cannot be read and was left aside: {error}")
        return None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        log(f"{path} names no architecture as timm's does, and was left aside")
        return None
    try:
        return Statement("config.json", *_timms(config, log))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"config.json beside it is not as timm writes it: {error!r}: mend it, or move it") from error


# Arguments of timm's networks that change nothing of what is built here.
_HARMLESS = ("num_classes", "in_chans", "img_size", "global_pool", "pretrained", "drop_rate", "drop_path_rate")


def _timms(config: dict[str, Any], log: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    """The fields of timm's config.json, and why its network cannot be built."""
    cfg, architecture = config.get("pretrained_cfg", config), config["architecture"]
    model, what = network_of(architecture)
    changed = {name: value for name, value in (config.get("model_args") or {}).items() if name not in _HARMLESS}
    if changed.get("output_stride") == 32:
        del changed["output_stride"]
    fields: dict[str, Any] = pixel_statistics(cfg.get("mean"), cfg.get("std"), "config.json: ")
    fields |= {} if model is None else {"model": model}
    refusal = ""
    if model is None:
        refusal = f"its architecture is {architecture!r}, which {f'has {what}' if what else 'is none of the paper'}"
    elif changed:
        refusal = f"its model_args {json.dumps(changed)} make another network of {architecture!r}"
    elif config.get("global_pool", "avg") not in ("avg", ""):
        refusal = f"its global_pool is {config['global_pool']!r}, and the paper's is an average"
    if "interpolation" in cfg:
        fields["interpolation"] = cfg["interpolation"]
        if cfg["interpolation"] not in INTERPOLATIONS:
            raise InputError(
                f"config.json: interpolation is {cfg['interpolation']!r}, and this package has "
                f"{', '.join(INTERPOLATIONS)}: write one of them there"
            )
    if "input_size" in cfg:
        _, height, width = cfg["input_size"]
        if height != width:
            raise InputError(f"config.json: input_size is {cfg['input_size']}, and images here are square")
        fields["image_size"] = int(height)
        if "crop_pct" in cfg:
            fields["resize"] = int(height / cfg["crop_pct"])
    both = {**cfg, **config}
    if both.get("num_classes") is not None:
        fields["num_classes"] = int(both["num_classes"])
    if names := both.get("label_names"):
        keys = map(str, range(len(names))) if isinstance(names, dict) else range(len(names))
        fields["class_names"] = tuple(str(names[key]) for key in keys)
    if cfg.get("test_input_size"):
        size = int(cfg["test_input_size"][1])
        resize = int(size / (cfg.get("test_crop_pct") or cfg.get("crop_pct", 0.875)))
        log(f"config.json also names larger images for tests: image_size={size} resize={resize}")
    if cfg.get("crop_mode", "center") != "center":
        log(f"config.json wants crop_mode={cfg['crop_mode']!r}; the centre is cut out instead")
    return fields, refusal
