"""Files of PyTorch weights, to classifiers and back.

Tensors say which network they are of, and sources beside them (see `origin`) what tensors cannot; of each field the
statement of most trust counts. The network is built as all of this says, and only then filled: weights never go into
one whose strides, pooling or pre-processing are not those that they were trained in.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import models
from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError, warn
from resnet_jax.evaluation.classifier import Classifier, check_classifier
from resnet_jax.files import expanded
from resnet_jax.interop import origin, torch_weights
from resnet_jax.interop.files import naming, read_weights, write_tensors
from resnet_jax.interop.origin import MODEL_FIELDS, OWN, VIEW_FIELDS, shown
from resnet_jax.interop.published import CIFAR_STATISTICS, Statement, network_of, pixel_statistics
from resnet_jax.models import ResNet
from resnet_jax.models.zoo import family_and_depth


def load_torch(
    path: str | os.PathLike[str],
    model: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | np.ndarray | None = None,
    std: float | Sequence[float] | np.ndarray | None = None,
    channel_order: str | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    shortcut_padding: str | None = None,
    bottleneck_stride: str | None = None,
    stem_pool_padding: str | None = None,
    batch_norm_epsilon: float | None = None,
    prefix: str | None = None,
    log: Callable[[str], None] = warn,
) -> Classifier:
    """The network that a file of PyTorch weights is of, with these weights and their pre-processing.

    What is None is as the file or timm's config.json beside it says, or else torchvision's habit (akamaster's for
    CIFAR networks).

    Args:
      path: a file of torchvision's, timm's, akamaster's or our own ResNets; .safetensors need no torch.
      model: the network, "resnet18" or "plain18".
      class_names: in the order of the logits.
      mean, std: of the pixels, one number for all channels or for each in the network's order, from 0 to 1 or, where
        one of them is above 1, from 0 to 255.
      channel_order: "rgb" or "bgr".
      image_size: height and width of the images that the network sees, in pixels.
      resize, interpolation: what the shorter side of an image becomes before its centre is cut out, "bilinear" or
        "bicubic".
      shortcut_padding, bottleneck_stride, stem_pool_padding, batch_norm_epsilon: see `models.ResNet`.
      prefix: of the network that is wanted where the file holds several.
      log: is given a line about each setting, where it is from, and where sources contradict each other.

    Raises:
      InputError: weights that cannot be read, a network that this package does not build, or a statement that does not
        fit the weights.

    Example:
      >>> classifier = load_torch("resnet50-11ad3fa6.pth")  # doctest: +SKIP
      >>> classifier = load_torch("mine.safetensors", "resnet18", mean=[0.5], std=[0.5])  # doctest: +SKIP
    """
    stated = {name: value for name, value in locals().items() if name not in ("path", "prefix", "log")}
    return read_torch(path, stated, prefix, log)[0]


def read_torch(
    path: str | os.PathLike[str], stated: Mapping[str, Any], prefix: str | None, log: Callable[[str], None]
) -> tuple[Classifier, str]:
    """What `load_torch` returns, and the name of the data set that the weights were trained on."""
    path, given = expanded(path, "the source", remote=True), _checked(stated)
    tensors, metadata = read_weights(path, prefix, log)
    with naming(path):
        tensors = torch_weights.with_fc(tensors, log)
        network, channels = torch_weights.identify(tensors), torch_weights.input_channels(tensors)
        found = origin.statements(path, metadata, log)
        _check_refusals(found, given, network, log)
        said = [Statement("given", given), *found]
        value, source = _settled([*said, *origin.assumed(network, channels)])
        _check_facts(value, source, network)
        preprocessing = _preprocessing(value, source, channels)
        model = network.clone(
            shortcut=None if "plain" in value["model"] else network.shortcut,
            **{name.removeprefix("batch_norm_"): value[name] for name in MODEL_FIELDS},
        )
        variables = torch_weights.from_torch(tensors, model, "own")
    _log_settings(value, source, said, model, log)
    image_shape = (value["image_size"], value["image_size"], channels)
    return Classifier(model, variables, preprocessing, tuple(value["class_names"]), image_shape), value["dataset"]


def save_torch(
    classifier: Classifier,
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    log: Callable[[str], None] = warn,
) -> None:
    """Writes the weights of a classifier by the names that they have in torchvision (CIFAR networks: akamaster's).

    A .safetensors file also says, in its metadata, which network, pre-processing and data set the weights are of, so
    that `load_torch` gives back what was written. `log` is given one line where the weights want what torchvision's
    networks (akamaster's) do not do.

    Raises:
      InputError: a network that is no `ResNet`, or a file that cannot be written.
    """
    check_classifier(classifier, "a file")
    path, model = expanded(path, "the destination", remote=True), classifier.model
    if not isinstance(model, ResNet):
        raise InputError(f"a {type(model).__name__} has no names in torch's layouts: only the ResNets have")
    unlike = [name for name, usual in _TORCH_HAS.items() if getattr(model, name) != usual]
    if unlike:
        raise InputError(f"torch's layouts have no networks with {unlike[0]}={getattr(model, unlike[0])!r}")
    preprocessing = jax.device_get(classifier.preprocessing)
    fields = {name: getattr(model, name.removeprefix("batch_norm_")) for name in MODEL_FIELDS}
    fields |= {name: getattr(preprocessing, name) for name in ("mean", "std", "channel_order", "interpolation")}
    fields |= {"image_size": classifier.image_shape[0], "resize": preprocessing.resize_size}
    fields["class_names"] = classifier.class_names
    whose = torch_weights.default_layout(model)
    tensors = torch_weights.to_torch(classifier.variables, layout=whose)
    write_tensors(path, tensors, origin.own_metadata(model, fields, dataset))
    if differing := _unlike_others(model, fields, classifier.image_shape[2]):
        said = "says in its metadata" if path.name.endswith(".safetensors") else "cannot say"
        log(f"{path} {said} what its weights want unlike {whose}'s: {' '.join(differing)}")


# Of fields that PyTorch's networks know nothing of, the value that these have.
_TORCH_HAS = {"padding": "zeros", "block_layers": 2, "gates": None, "preactivation": False}


def _unlike_others(model: ResNet, fields: Mapping[str, Any], channels: int) -> list[str]:
    """What `load_torch` would take for something else in a file without metadata, as flags of `convert`."""
    others, texts = origin.assumed(model, channels)[-1].fields, shown(fields)
    used = [name for name in MODEL_FIELDS if name in torch_weights.conventions(model)]
    same = {
        name: np.array_equal(np.ravel(fields[name]), np.ravel(others.get(name, np.nan)))
        for name in (*used, *VIEW_FIELDS)
    }
    same["mean"] = same["std"] = same["mean"] and same["std"]  # which are stated together
    unlike = []
    if model.shortcut is None:
        unlike.append("--model={}{}".format(*family_and_depth(model)))
    if model.stem == "imagenet" and model.shortcut in ("A", "C"):
        unlike.append(f"(shortcut {model.shortcut})")
    unlike += [f"--{name}={texts[name]}" for name in same if not same[name] and fields[name] is not None]
    if fields["mean"].shape[:2] != (1, 1):
        unlike.append("(the mean is that of each pixel)")
    return unlike


_CHOICES = {
    "shortcut_padding": ("end", "both"),
    "bottleneck_stride": ("1x1", "3x3"),
    "stem_pool_padding": ("caffe", "torch"),
    "channel_order": ("rgb", "bgr"),
    "interpolation": tuple(INTERPOLATIONS),
}


def _checked(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What the user states, each value one that there is; "mean" and "std" of pixels from 0 to 255."""
    given = {name: value for name, value in stated.items() if value is not None}
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise InputError(f"{name}={given[name]} is not one of {', '.join(choices)}")
    if "model" in given:
        if what := network_of(given["model"])[1]:
            raise InputError(f"model={given['model']} names a network with {what}, which this package does not build")
        try:
            models.create(given["model"])
        except ValueError as error:
            raise InputError(f"model={given['model']}: {error}") from error
    for name in ("batch_norm_epsilon", "image_size", "resize"):
        if not 0 < given.get(name, 1) < math.inf:
            raise InputError(f"{name}={given[name]} must be a number above 0")
    if ("mean" in given) != ("std" in given):
        raise InputError("mean and std belong together: give both")
    return given | pixel_statistics(given.get("mean"), given.get("std"))


def _check_refusals(
    found: Sequence[Statement], given: Mapping[str, Any], network: ResNet, log: Callable[[str], None]
) -> None:
    """Refuses a network that a source names and that neither the user nor the metadata of this package gainsays."""
    answers = {field: f"{field}={value}" for field, value in given.items()}
    for source, fields, refusal, answer in found:
        if source == OWN:
            answers = {field: f"{field}={value}" for field, value in fields.items()} | answers
        elif refusal and answer in answers:
            log(f"{answers[answer]} is used, although by {source}: {refusal}")
        elif refusal:
            name = "{}{}".format(*family_and_depth(network))
            advice = f". If the weights are those of a {name} all the same, say so: model={name}"
            raise InputError(f"by {source}: {refusal}{advice if answer == 'model' else ''}")


def _settled(statements: Sequence[Statement]) -> tuple[dict[str, Any], dict[str, str]]:
    """The value of each field and its source: the first statement that has it."""
    first = {name: each for each in reversed(statements) for name in each.fields}
    value = {name: each.fields[name] for name, each in first.items()}
    source = {name: each.source for name, each in first.items()}
    theirs = first["resize"]
    if theirs is not first["image_size"] and theirs.source != "given" and value["resize"] is not None:
        # Another size than the one that the resizing belongs to.
        size = value["image_size"]
        value["resize"] = size * value["resize"] // theirs.fields.get("image_size", size)
        source["resize"] = f"in proportion, {theirs.source}"
    return value, source


def _check_facts(value: Mapping[str, Any], source: Mapping[str, str], network: ResNet) -> None:
    """Refuses statements that the tensors gainsay."""
    model, classes, name = value["model"], network.num_classes, "{}{}".format(*family_and_depth(network))
    if model not in (name, name.replace("resnet", "plain") if network.shortcut == "A" else name):
        raise InputError(
            f"the weights are of a {name} by their names and shapes, but the model is {model} ({source['model']})"
        )
    for field, count in (("num_classes", int), ("class_names", len)):
        if field in value and (stated := count(value[field])) != classes:
            raise InputError(f"the weights have {classes} classes, but {field} ({source[field]}) has {stated}")
    if "mean" not in value:
        raise InputError("the weights are for images of one channel: state their mean and std")
    if value["resize"] is not None and value["resize"] < value["image_size"]:
        resize, size = (f"{name}={value[name]} ({source[name]})" for name in ("resize", "image_size"))
        raise InputError(f"{resize} is less than {size}")


def _preprocessing(value: Mapping[str, Any], source: Mapping[str, str], channels: int) -> Preprocessing:
    def each_channel(name: str) -> jax.Array:
        array = value[name]
        if array.ndim == 3:
            return jnp.asarray(array)
        if len(array) not in (1, channels):
            raise InputError(f"{name} has {len(array)} numbers, but the images have {channels} channels")
        if source[name] == "given":
            array = np.broadcast_to(array, (channels,))
        elif value["channel_order"] == "bgr" and source[name] != OWN:
            # Those that are known are of RGB, and the user's and ours in the network's order.
            array = array[::-1]
        return jnp.asarray(array[None, None])

    others = (value[name] for name in ("channel_order", "resize", "interpolation"))
    return Preprocessing(each_channel("mean"), each_channel("std"), *others)


def _log_settings(
    value: Mapping[str, Any],
    source: Mapping[str, str],
    said: Sequence[Statement],
    model: ResNet,
    log: Callable[[str], None],
) -> None:
    """Logs each setting that matters to the network, where it is from, and who states another."""
    used = [name for name in MODEL_FIELDS if name in torch_weights.conventions(model)]
    for name in ("model", *used, *VIEW_FIELDS, "class_names"):
        if value[name] is None:
            continue
        others = ""
        for other, fields, *_ in said:
            if name in fields and not np.array_equal(fields[name], value[name]) and not source[name].endswith(other):
                others += f"; {other} says {shown({**value, name: fields[name]})[name]}"
        log(f"{name}={shown(value)[name]} ({source[name]}{others})")
    own = CIFAR_STATISTICS.get(str(model.num_classes)) if model.stem == "cifar" else None
    if own and source["mean"].startswith("assumed"):
        mean, std = (",".join(map(str, each)) for each in own)
        log(f"weights that were trained with CIFAR's own statistics want mean={mean} std={std}")
