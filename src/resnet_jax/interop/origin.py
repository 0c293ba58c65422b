"""What is known of a file of weights beside its tensors: which network they are of, and how images were pre-processed.

Tensors show neither strides nor pooling nor pixels. What does, in falling order of trust: the user; the metadata that
this package writes into .safetensors; an entry such as "arch" of a training checkpoint; timm's config.json beside the
file; a file name that torchvision, timm, akamaster or chenyaofo gave it. Each of them is a `Statement`.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_jax.errors import InputError
from resnet_jax.interop.views import (
    CIFAR_STATISTICS,
    pixel_statistics,
    resized,
    test_view,
    timm_view,
)

# The key of the metadata that this package writes, and its version.
METADATA_KEY, METADATA_VERSION = "resnet_jax", 1
# The source of the statement that is made from it.
OWN = "the file's metadata"


class Statement(NamedTuple):
    """What one source says.

    Attributes:
      source: its name, for the user.
      fields: those of `interop.convert.Stated` that it knows; "mean" and "std" as arrays, of pixels from 0 to 255.
      refusal: why the network it names cannot be built here, or "".
      answer: the flag with which the user says that it is another one all the same.
    """

    source: str
    fields: dict[str, Any]
    refusal: str = ""
    answer: str = "model"


def statements(path: Path, metadata: Mapping[str, str], say: Callable[[str], None]) -> list[Statement]:
    """What metadata, config.json and the name of a file say, in falling order of trust.

    Args:
      path: of the file.
      metadata: see `interop.files.Weights`.
      say: is given a line about a config.json that is not timm's.

    Raises:
      InputError: metadata or a config.json that cannot be understood.
    """
    found = [_own(path, metadata), _entry(metadata), _config_json(path.parent / "config.json", say), _name(path)]
    return [each for each in found if each is not None]


def network_of(architecture: str) -> tuple[str | None, str]:
    """The network of the paper that a name in timm or torchvision stands for.

    Args:
      architecture: such as "resnet50", "gluon_resnet50_v1b", "resnet18.a1_in1k" or "resnetblur18".

    Returns:
      Its name here, or None; and what sets the named network apart from the paper's, or "".
    """
    name = architecture.lower().partition(".")[0]
    plain = re.fullmatch(r"(?:gluon_|tv_|ssl_|swsl_)?resnet(18|34|50|101|152)(?:_v1b)?", name)
    if plain:
        return f"resnet{plain[1]}", ""
    return None, next((what for pattern, what in _VARIANTS.items() if re.search(pattern, name)), "")


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
    names = fields.get("class_names")
    if names:
        texts["class_names"] = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, … {names[-1]}"
    return texts


def own_metadata(
    model: Mapping[str, Any], preprocessing: Mapping[str, Any], class_names: Sequence[str], dataset: str
) -> dict[str, str]:
    """The metadata with which a .safetensors file comes back as the network it was; `_own` reads it.

    Args:
      model: the fields of `config.model` that say which network it is.
      preprocessing: "mean" and "std" (arrays of pixels from 0 to 255, the mean perhaps an image), "channel_order",
        "image_size", "resize", "interpolation".
      class_names: in the order of the logits.
      dataset: `config.dataset.name`.
    """
    fields = {name: value for name, value in preprocessing.items() if name not in ("mean", "std")}
    for name in ("mean", "std"):
        array = np.asarray(preprocessing[name], np.float32)
        if array.shape[:2] == (1, 1):
            fields[name] = array.ravel().tolist()
        else:
            data = base64.b64encode(array.astype("<f4").tobytes()).decode()
            fields[name] = {"shape": list(array.shape), "float32": data}
    content = {
        "version": METADATA_VERSION,
        "model": dict(model),
        "preprocessing": fields,
        "class_names": list(class_names),
        "dataset": dataset,
    }
    return {METADATA_KEY: json.dumps(content, ensure_ascii=False)}


def _own(path: Path, metadata: Mapping[str, str]) -> Statement | None:
    if METADATA_KEY not in metadata:
        return None
    try:
        content = json.loads(metadata[METADATA_KEY])
        if content["version"] != METADATA_VERSION:
            raise InputError(
                f"the metadata of {path} has version {content['version']}, and this package reads {METADATA_VERSION}: "
                "use the version of resnet_jax that wrote it"
            )
        fields = {"class_names": tuple(content["class_names"]), "dataset": content["dataset"]}
        model = content["model"]
        fields["model"] = f"{model['family']}{model['depth']}"
        fields |= {name: model[name] for name in ("zero_channels", "stride_in", "pool_alignment")}
        fields["batch_norm_epsilon"] = model["batch_norm_epsilon"]
        for name, value in content["preprocessing"].items():
            fields[name] = _decoded(value) if name in ("mean", "std") else value
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the metadata of {path} under {METADATA_KEY!r} is damaged: {error!r}") from error
    return Statement(OWN, fields)


def _decoded(value: Any) -> np.ndarray:
    if isinstance(value, dict):
        data = np.frombuffer(base64.b64decode(value["float32"]), "<f4")
        return data.reshape(value["shape"]).astype(np.float32)
    return np.array(value, np.float32)


def _entry(metadata: Mapping[str, str]) -> Statement | None:
    """What training scripts write beside the weights: PyTorch's example and timm an "arch"."""
    for key in ("arch", "architecture", "model_name"):
        if key not in metadata:
            continue
        model, what = network_of(metadata[key])
        source = f"the entry {key}={metadata[key]!r}"
        if model is not None:
            return Statement(source, {"model": model})
        if what:
            return Statement(source, {}, f"that network has {what}, which none of this package has")
    return None


def _config_json(path: Path, say: Callable[[str], None]) -> Statement | None:
    """The config.json that timm writes beside weights, of its present and of its older form."""
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError) as error:
        say(f"{path} cannot be read and was left aside: {error}")
        return None
    cfg = config.get("pretrained_cfg", config)
    if not isinstance(config.get("architecture"), str) or not isinstance(cfg, dict):
        say(f"{path} names no architecture as timm's does, and was left aside")
        return None
    source, architecture = "config.json", config["architecture"]
    model, what = network_of(architecture)
    fields: dict[str, Any] = {} if model is None else {"model": model}
    refusal = ""
    if model is None:
        refusal = f"its architecture is {architecture!r}, which {f'has {what}' if what else 'is none of the paper'}"
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise InputError(f"{path} is not as timm writes it: model_args is no table. Mend it, or move the weights away")
    changed = {
        name: value
        for name, value in arguments.items()
        if name
        not in ("num_classes", "in_chans", "img_size", "global_pool", "pretrained", "drop_rate", "drop_path_rate")
        and not (name == "output_stride" and value == 32)
    }
    if changed and not refusal:
        refusal = f"its model_args {json.dumps(changed)} make another network of {architecture!r}"
    if config.get("global_pool", "avg") not in ("avg", ""):
        refusal = refusal or f"its global_pool is {config['global_pool']!r}, and the paper's is an average"
    try:
        fields |= timm_view(cfg, f"{path}: ")
        classes: Any = config.get("num_classes", cfg.get("num_classes"))
        if classes is not None:
            fields["num_classes"] = int(classes)
        names = config.get("label_names", cfg.get("label_names"))
        if names:
            named = [names[str(i)] for i in range(len(names))] if isinstance(names, dict) else names
            fields["class_names"] = tuple(map(str, named))
        views = test_view(cfg)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not as timm writes it: {error!r}. Mend it, or move the weights away from it"
        ) from error
    for view in views:
        say(view)
    if cfg.get("crop_mode", "center") != "center":
        say(f"config.json wants crop_mode={cfg['crop_mode']!r}; the centre is cut out instead")
    return Statement(source, fields, refusal)


_HASH = r"-[0-9a-f]{8}(?![0-9a-f])"
_DEPTH = r"resnet(?P<depth>18|34|50|101|152)"
_TORCHVISION_V1 = "5c106cde|f37072fd|333f7ec4|b627a593|19c8e357|0676ba61|5d3b4d8f|63fe2227|b121ed2d|394f9c45"
# Image size, resizing and interpolation of what torchvision and timm publish, by the names that they gave the files.
_PUBLISHED = {
    rf"{_DEPTH}(-(11ad3fa6|cd907fc2|f82ba261)|[\w.]*imagenet1k_v2|\.tv2_in1k)": (
        ("torchvision's V2 weights", 224, 232, "bilinear")
    ),
    rf"{_DEPTH}(-({_TORCHVISION_V1})|[\w.]*imagenet1k_v1|\.tv_in1k)": (
        "torchvision's V1 weights",
        224,
        256,
        "bilinear",
    ),
    rf"{_DEPTH}(_a3_0{_HASH}|\.a3_in1k)": ("timm's A3 weights", 160, resized(160, 0.95), "bicubic"),
    rf"{_DEPTH}(_(a1_0|a2_0|b1k|b2k|c1|c2|d|ram){_HASH}|\.(a1|a2|b1k|b2k|c1|c2|d|ram)_in1k)": (
        ("timm's weights", 224, resized(224, 0.95), "bicubic")
    ),
    rf"(gluon_{_DEPTH}_v1b{_HASH})": ("Gluon's weights", 224, 256, "bicubic"),
}


def _name(path: Path) -> Statement | None:
    """What the name of a file says that a publisher of weights gave it."""
    name = path.name.lower()
    source = f"the name {path.name}"
    for pattern, what in _VARIANTS.items():
        if re.search(pattern, name):
            return Statement(source, {}, f"that stands for a network with {what}, which none of this package has")
    if re.search(r"caffe|msra", name) and "resnet" in name:
        return Statement(
            source,
            {},
            "Caffe's networks stride in 1x1 convolutions and take BGR pixels from 0 to 255. State it: --stride_in=1x1 "
            "--pool_alignment=caffe|torch --channel_order=bgr --mean=103.53,116.28,123.675 --std=1",
            "stride_in",
        )
    for pattern, (who, image_size, resize, interpolation) in _PUBLISHED.items():
        match = re.search(pattern, name)
        if match:
            fields = {"model": f"resnet{match['depth']}", **_statistics(IMAGENET_MEAN, IMAGENET_STD)}
            fields |= {"image_size": image_size, "resize": resize, "interpolation": interpolation}
            return Statement(f"the name of {who}", fields)
    match = re.search(rf"(?<![a-z_])resnet(20|32|44|56|110|1202){_HASH}", name)
    if match:
        fields = {"model": f"cifar_resnet{match[1]}", "zero_channels": "both"}
        return Statement("the name of akamaster's weights", fields | _statistics(IMAGENET_MEAN, IMAGENET_STD))
    match = re.search(rf"cifar(10|100)_resnet(\d+){_HASH}", name)
    if match:
        fields = {"model": f"cifar_resnet{match[2]}", **_statistics(*CIFAR_STATISTICS[match[1]])}
        return Statement("the name of chenyaofo's weights", fields)
    return None


def _statistics(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return dict(zip(("mean", "std"), pixel_statistics(mean, std, ""), strict=True))
