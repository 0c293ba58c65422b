"""resnet-jax convert: from the weights of another library to the workdir of a run, and back."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import build, models, sharding, workdir
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import Config, base
from resnet_jax.data.augment import Preprocessing
from resnet_jax.data.decode import INTERPOLATIONS
from resnet_jax.data.prepared import imagenet_class_names
from resnet_jax.errors import InputError, complain
from resnet_jax.evaluation.trained import Trained, load_trained
from resnet_jax.files import expanded
from resnet_jax.interop import origin, torch_weights
from resnet_jax.interop.files import SUFFIXES, read_weights, write_tensors
from resnet_jax.interop.origin import Statement, pixel_statistics
from resnet_jax.models import ResNet
from resnet_jax.training.state import TrainState

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Stated(TypedDict, total=False):
    """What a user says of weights whose tensors cannot say it; what is left out, or None, is looked for elsewhere.

    Attributes:
      model: the network, "resnet18" or "plain18".
      zero_channels, stride_in, pool_alignment: see `models.ResNet`.
      batch_norm_epsilon: what is added to variances.
      mean, std: of the pixels, one number for each channel in the network's order, see `origin.pixel_statistics`.
      channel_order: "rgb" or "bgr".
      image_size: side of the images that the network sees, in pixels.
      resize: what the shorter side of a photograph becomes before its centre is cut out.
      interpolation: of that resizing, "bilinear" or "bicubic".
      class_names: in the order of the logits.
    """

    model: str | None
    zero_channels: str | None
    stride_in: str | None
    pool_alignment: str | None
    batch_norm_epsilon: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    channel_order: str | None
    image_size: int | None
    resize: int | None
    interpolation: str | None
    class_names: Sequence[str] | None


class Converted(NamedTuple):
    """A network with weights that were made for it.

    Attributes:
      config: names the network, the images and the data set.
      model, variables, preprocessing: the network.
      card: names the classes.
    """

    config: Config
    model: ResNet
    variables: dict[str, Any]
    preprocessing: Preprocessing
    card: Card


def read_network(
    source: str | os.PathLike[str],
    say: Callable[[str], None] = complain,
    *,
    prefix: str | None = None,
    **stated: Unpack[Stated],
) -> Converted:
    """The network that a file of PyTorch weights is of, with these weights and their pre-processing.

    Of what the tensors do not show, the user's statement counts, then what the file or timm's config.json beside it
    says, then the habit of torchvision, or of akamaster for CIFAR networks.

    Args:
      source: a file of torchvision's, timm's, akamaster's or our own ResNets, see `interop.files.read_weights`.
      say: is given a line about each setting, where it is from, and where sources contradict each other.
      prefix: of the network that is wanted where the file holds several.
      **stated: see `Stated`.

    Raises:
      InputError: the weights cannot be read or are no network of the paper, sources name a network that this package
        does not build, or something that was stated does not fit the weights.
    """
    source, given = expanded(source, "the source"), _checked(stated)
    weights = read_weights(source, prefix)
    try:
        tensors, notes = torch_weights.with_fc(weights.tensors)
        facts = torch_weights.identify(tensors)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    found = origin.statements(source, weights.metadata, say)
    for line in (*weights.notes, *notes, *_refusals(source, found, given, facts)):
        say(line)
    channels = torch_weights.input_channels(tensors)
    settings = _settle([Statement("given", given), *found], _assumed(facts, channels))
    _check_facts(settings, facts, source)
    config = _config(settings, facts)
    model = build.model(config, facts["num_classes"])
    try:
        variables = torch_weights.from_torch(tensors, model, torch_weights.conventions(model))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(f"{source} holds numbers in {name} that are not finite: they are no weights of use")
    preprocessing, card = _preprocessing(settings, channels)
    for line in _lines(settings, model):
        say(line)
    own = origin.CIFAR_STATISTICS.get(str(facts["num_classes"]))
    if own and config.model.family.startswith("cifar") and settings["mean"].source.startswith("assumed"):
        mean, std = (",".join(map(str, values)) for values in own)
        say(f"weights that were trained with CIFAR's own statistics want --mean={mean} --std={std}")
    return Converted(config, model, variables, preprocessing, card)


def from_torch(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    say: Callable[[str], None] = complain,
    *,
    prefix: str | None = None,
    **stated: Unpack[Stated],
) -> str:
    """Makes a workdir that `evaluate` and `predict` use like that of a run, from a file of PyTorch weights.

    Its config names the network, its checkpoint holds the weights and the pre-processing, see `read_network`.

    Args:
      source, say, prefix, **stated: see `read_network`.
      directory: a folder that does not exist or is empty.

    Returns:
      The name of the network.

    Raises:
      InputError: as `read_network`, or the folder holds something.
    """
    directory = workdir.locate(directory, "the destination")
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty: give a folder that does not exist yet")
    network = read_network(source, say, prefix=prefix, **stated)
    everywhere = sharding.replicated(sharding.make_mesh())
    optimizer = build.optimizer(network.config, train_images=1)
    variables = network.variables
    state = TrainState(jnp.zeros((), jnp.int32), opt_state=optimizer.init(variables["params"]), **variables)
    state, preprocessing = jax.device_put((state, network.preprocessing), everywhere)
    workdir.claim(directory, network.config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, network.card, step=0)
    return f"{network.config.model.family}{network.config.model.depth}"


def to_torch(
    directory: str | os.PathLike[str], destination: str | os.PathLike[str], say: Callable[[str], None] = complain
) -> None:
    """Writes a run's newest checkpoint in torchvision's layout (akamaster's for CIFAR networks).

    A .safetensors file also says, in its metadata, which network and pre-processing the weights are for, so that
    `from_torch` gives back what was written.

    Args:
      directory: the run's workdir.
      destination: a file, see `interop.files.write_tensors`.
      say: is given one line where the weights want what torchvision's networks (akamaster's) do not do.

    Raises:
      InputError: no checkpoint, or a file that cannot be written.
    """
    directory, destination = expanded(directory, "the source"), expanded(destination, "the destination")
    files = [path for path in sorted(directory.glob("*")) if path.name.endswith(SUFFIXES)]
    if files and not (directory / "checkpoints").is_dir():
        raise InputError(f"{directory} is no run, and holds weights: give the file itself, {files[0]}")
    trained = load_trained(directory)
    classifier = "linear" if trained.model.stem == "cifar" else "fc"
    tensors = torch_weights.to_torch(trained.variables, trained.model, classifier)
    settings = _settings_of(trained)
    model = {name: trained.config.model[name] for name in ("family", "depth", "shortcut", *_MODEL_FIELDS)}
    view = {name: settings[name] for name in _VIEW_FIELDS}
    write_tensors(
        destination,
        tensors,
        origin.own_metadata(model, view, trained.card.class_names, trained.config.dataset.name),
    )
    differing = _unlike_others(trained, settings)
    if differing:
        whose = "akamaster's" if classifier == "linear" else "torchvision's"
        said = (
            "says in its metadata, which this package reads and torch does not,"
            if destination.name.endswith(".safetensors")
            else "cannot say, so that who reads it must,"
        )
        say(f"{destination} {said} what its weights want unlike {whose}: {' '.join(differing)}")


_MODEL_FIELDS = ("zero_channels", "stride_in", "pool_alignment", "batch_norm_epsilon")
_VIEW_FIELDS = ("mean", "std", "channel_order", "image_size", "resize", "interpolation")

_CHOICES = {
    "zero_channels": ("end", "both"),
    "stride_in": ("1x1", "3x3"),
    "pool_alignment": ("caffe", "torch"),
    "channel_order": ("rgb", "bgr"),
    "interpolation": tuple(INTERPOLATIONS),
}


def _checked(stated: Mapping[str, Any]) -> dict[str, Any]:
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


def _refusals(
    source: Path, found: Sequence[Statement], given: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[str]:
    """Lines about networks that a source names and the user gainsays.

    Raises:
      InputError: the user does not.
    """
    for each in found:
        if not each.refusal:
            continue
        if each.answer in given:
            yield f"--{each.answer}={given[each.answer]} is used, although by {each.source}: {each.refusal}"
            continue
        own = f"{facts['family']}{facts['depth']}"
        advice = f". If the weights are those of a {own} all the same, say so: --model={own}"
        raise InputError(f"{source}, by {each.source}: {each.refusal}{advice if each.answer == 'model' else ''}")


def _assumed(facts: Mapping[str, Any], channels: int) -> list[Statement]:
    """What is so where nobody says otherwise."""
    cifar = facts["family"].startswith("cifar")
    whose = "akamaster" if cifar else "torchvision"
    mean, std = pixel_statistics(origin.IMAGENET_MEAN, origin.IMAGENET_STD, "")
    fields = {name: torch_weights.LAYOUTS[whose][name] for name in _MODEL_FIELDS if name != "batch_norm_epsilon"}
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


class _Setting(NamedTuple):
    """A field's value, where it is from, and what sources of less trust say instead."""

    value: Any
    source: str
    others: tuple[tuple[str, Any], ...]


def _settle(stated: Sequence[Statement], assumed: Sequence[Statement]) -> dict[str, _Setting]:
    """What counts of each field: the first statement that has it."""
    settled: dict[str, _Setting] = {}
    for each in (*stated, *assumed):
        for name, value in each.fields.items():
            if name not in settled:
                others = [(other.source, other.fields[name]) for other in stated if name in other.fields]
                differing = [other for other in others if not np.array_equal(other[1], value)]
                settled[name] = _Setting(value, each.source, tuple(differing))
    side, resize = settled["image_size"], settled["resize"]
    if side.source != resize.source and resize.source != "given" and resize.value is not None:
        # Another side than the one that the resizing belongs to.
        theirs = next(each for each in (*stated, *assumed) if each.source == resize.source)
        value = side.value * resize.value // theirs.fields.get("image_size", side.value)
        settled["resize"] = resize._replace(value=value, source=f"in proportion, {resize.source}")
    return settled


def _check_facts(settings: Mapping[str, _Setting], facts: Mapping[str, Any], source: Path) -> None:
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


def _config(settings: Mapping[str, _Setting], facts: Mapping[str, Any]) -> Config:
    config = base.get_config()
    name = settings["model"].value
    depth = facts["depth"]
    config.model.update(
        family=name.removesuffix(str(depth)),
        depth=depth,
        shortcut=facts["shortcut"],
        **{field: settings[field].value for field in _MODEL_FIELDS},
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


def _preprocessing(settings: Mapping[str, _Setting], channels: int) -> tuple[Preprocessing, Card]:
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


def _lines(settings: Mapping[str, _Setting], model: ResNet) -> Iterator[str]:
    """Each setting that matters to the network, and where it is from."""
    used = torch_weights.conventions(model)
    relevant = ["model", *(field for field in _MODEL_FIELDS if field in used), "batch_norm_epsilon", *_VIEW_FIELDS]
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


def _settings_of(trained: Trained) -> dict[str, Any]:
    """The fields of a network of ours."""
    ours = jax.device_get(trained.preprocessing)
    return {
        **{name: trained.config.model[name] for name in _MODEL_FIELDS},
        "mean": ours.mean,
        "std": ours.std,
        "channel_order": ours.channel_order,
        "image_size": trained.card.image_shape[0],
        "resize": ours.shorter_side,
        "interpolation": ours.interpolation,
    }


def _unlike_others(trained: Trained, settings: Mapping[str, Any]) -> list[str]:
    """What `from_torch` would take for something else in a file without metadata, as flags of `convert`."""
    model = trained.model
    facts = {
        "family": "cifar_resnet" if model.stem == "cifar" else "resnet",
        "depth": trained.config.model.depth,
        "num_classes": model.num_classes,
    }
    own = f"{trained.config.model.family}{facts['depth']}"
    *_, assumed = _assumed(facts, trained.card.image_shape[2])
    used = (*torch_weights.conventions(model), "batch_norm_epsilon", *_VIEW_FIELDS)
    differing = [f"--model={own}"] if model.shortcut is None else []
    if model.stem == "imagenet" and model.shortcut in ("A", "C"):
        differing.append(f"(shortcut {model.shortcut})")
    texts = origin.shown(settings)
    statistics = [name for name in ("mean", "std") if not _same(settings[name], assumed.fields.get(name))]
    for name, value in settings.items():
        # The two are stated together.
        differs = bool(statistics) if name in ("mean", "std") else value != assumed.fields[name]
        if name in used and differs:
            differing.append(f"--{name}={texts[name]}")
    if np.shape(settings["mean"])[:2] != (1, 1):
        differing.append("(the mean is that of each pixel)")
    return differing


def _same(ours: np.ndarray, theirs: np.ndarray | None) -> bool:
    return theirs is not None and ours.size == theirs.size and np.array_equal(ours.ravel(), theirs.ravel())
