"""resnet-jax convert: from the weights of another library to the workdir of a run, and back."""

import os
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import build, sharding, workdir
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import base
from resnet_jax.data.augment import Preprocessing
from resnet_jax.data.prepared import imagenet_class_names
from resnet_jax.errors import InputError, complain
from resnet_jax.evaluation.trained import Trained, load_trained
from resnet_jax.files import expanded
from resnet_jax.interop import torch_weights
from resnet_jax.interop.files import read_tensors, write_tensors
from resnet_jax.training.state import TrainState

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def from_torch(source: str | os.PathLike[str], directory: str | os.PathLike[str]) -> str:
    """Makes a workdir that `evaluate` and `predict` use like that of a run, from a file of PyTorch weights.

    Its config names the network, its checkpoint holds the weights and the pre-processing that they were trained with:
    that of torchvision, which akamaster's CIFAR networks share.

    Args:
      source: a .safetensors, .pth, .pt or .th file of torchvision's, timm's or akamaster's ResNets.
      directory: a folder that does not exist or is empty.

    Returns:
      The name of the network that was recognised.

    Raises:
      InputError: the weights cannot be read or are no network of the paper, or the folder holds something.
    """
    source, directory = expanded(source, "the source"), expanded(directory, "the destination")
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty: give a folder that does not exist yet")
    tensors = read_tensors(source)
    fields = torch_weights.identify(tensors)
    classes = fields.pop("num_classes")
    config = base.get_config()
    config.model.update(fields)
    config.stream.update(crop="area", normalization="channels", color_noise=0.0)
    cifar = fields["family"].startswith("cifar")
    config.dataset.name = ("cifar10" if classes == 10 else "cifar100") if cifar else "imagenet2012"
    model = build.model(config, classes)
    variables = torch_weights.from_torch(tensors, model)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(f"{source} holds numbers in {name} that are not finite: they are no weights of use")

    everywhere = sharding.replicated(sharding.make_mesh())
    optimizer = build.optimizer(config, train_images=1)
    state = TrainState(jnp.zeros((), jnp.int32), opt_state=optimizer.init(variables["params"]), **variables)
    view = {} if cifar else {"shorter_side": 256, "interpolation": "bilinear"}
    mean, std = (jnp.asarray(each[None, None]) for each in (build.CHANNEL_MEAN, build.CHANNEL_STD))
    preprocessing = Preprocessing(mean, std, **view)
    state, preprocessing = jax.device_put((state, preprocessing), everywhere)
    # Torchvision and timm sort ImageNet's classes by their synsets, as everybody does.
    known = {(True, 10): _CIFAR10, (False, 1000): imagenet_class_names()}
    names = known.get((cifar, classes)) or tuple(f"class {i}" for i in range(classes))
    side = 32 if cifar else 224
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, Card(names, (side, side, 3), data_crc=0), step=0)
    return f"{config.model.family}{config.model.depth}"


def to_torch(
    directory: str | os.PathLike[str], destination: str | os.PathLike[str], say: Callable[[str], None] = complain
) -> None:
    """Writes a run's newest checkpoint in torchvision's layout (akamaster's for CIFAR networks).

    Args:
      directory: the run's workdir.
      destination: a .safetensors or .pth file.
      say: is told what the weights want and the file cannot say, where that is not what torchvision's networks do.

    Raises:
      InputError: no checkpoint, or a file that cannot be written.
    """
    destination = expanded(destination, "the destination")
    trained = load_trained(directory)
    classifier = "linear" if trained.model.stem == "cifar" else "fc"
    tensors: Mapping[str, np.ndarray] = torch_weights.to_torch(trained.variables, trained.model, classifier)
    write_tensors(destination, dict(tensors))
    for difference in _unlike_torchvision(trained):
        say(f"{destination} cannot say that its weights want {difference}, unlike torchvision's")


def _unlike_torchvision(trained: Trained) -> list[str]:
    """What the weights were trained with and the weights of torchvision's networks (akamaster's for CIFAR) were not."""
    model, ours = trained.model, trained.preprocessing
    found = []
    if model.stem == "imagenet" and model.pool_alignment != "torch":
        found.append(f"model.pool_alignment={model.pool_alignment}")
    if model.bottleneck and model.stride_in != "3x3":
        found.append(f"model.stride_in={model.stride_in}")
    mean, std = (np.asarray(each).mean((0, 1)) for each in (ours.mean, ours.std))
    same = all(np.allclose(each, theirs) for each, theirs in ((mean, build.CHANNEL_MEAN), (std, build.CHANNEL_STD)))
    if ours.channel_order != "rgb" or not same:
        image = "a mean image of " if ours.mean.shape[:2] != (1, 1) else ""
        found.append(
            f"{ours.channel_order.upper()} pixels from 0 to 255, less {image}{np.round(mean, 1).tolist()}, "
            f"divided by {np.round(std, 1).tolist()}"
        )
    return found
