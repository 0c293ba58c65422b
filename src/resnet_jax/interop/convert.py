"""resnet-jax convert: from the weights of another library to the workdir of a run, and back."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import build, sharding, workdir
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import Config
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError, complain
from resnet_jax.evaluation.trained import Trained, load_trained
from resnet_jax.files import expanded
from resnet_jax.interop import origin, torch_weights, views
from resnet_jax.interop.files import SUFFIXES, read_weights, write_tensors
from resnet_jax.interop.identify import identify
from resnet_jax.interop.origin import Statement
from resnet_jax.interop.settings import (
    MODEL_FIELDS,
    VIEW_FIELDS,
    assumed_of,
    check_facts,
    checked,
    config_of,
    lines_of,
    preprocessing_of,
    refusals,
    settle,
)
from resnet_jax.models import ResNet
from resnet_jax.training.state import TrainState


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
    source, given = expanded(source, "the source"), checked(stated)
    weights = read_weights(source, prefix)
    try:
        tensors, notes = torch_weights.with_fc(weights.tensors)
        facts = identify(tensors)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    found = origin.statements(source, weights.metadata, say)
    for line in (*weights.notes, *notes, *refusals(source, found, given, facts)):
        say(line)
    channels = torch_weights.input_channels(tensors)
    settings = settle([Statement("given", given), *found], assumed_of(facts, channels))
    check_facts(settings, facts, source)
    config = config_of(settings, facts)
    model = build.model(config, facts["num_classes"])
    try:
        variables = torch_weights.from_torch(tensors, model, torch_weights.conventions(model))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(f"{source} holds numbers in {name} that are not finite: they are no weights of use")
    preprocessing, card = preprocessing_of(settings, channels)
    for line in lines_of(settings, model):
        say(line)
    own = views.CIFAR_STATISTICS.get(str(facts["num_classes"]))
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
    model = {name: trained.config.model[name] for name in ("family", "depth", "shortcut", *MODEL_FIELDS)}
    view = {name: settings[name] for name in VIEW_FIELDS}
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


def _settings_of(trained: Trained) -> dict[str, Any]:
    """The fields of a network of ours."""
    ours = jax.device_get(trained.preprocessing)
    return {
        **{name: trained.config.model[name] for name in MODEL_FIELDS},
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
    *_, assumed = assumed_of(facts, trained.card.image_shape[2])
    used = (*torch_weights.conventions(model), "batch_norm_epsilon", *VIEW_FIELDS)
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
