"""The layers of a network in the order in which they compute, and what they are given and give.

Names are the paths of the variables as `models.unstack` has them, such as "stage2/block3/conv1".
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from resnet_jax.analysis.inputs import check_groups, check_images, unfrozen
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError, check_whole
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import unstack
from resnet_jax.models.conv import Conv
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.stacking import FIRST, REST, block_names, is_stacked

_MOMENTS = "moments"


@dataclass(frozen=True)
class ExecutedLayer:
    """A convolution, a batch norm or a dense layer.

    Attributes:
      name: such as "stage2/block3/conv1".
      module: the Linen module; of blocks that are scanned, one module stands for all.
      follows: the name of the convolution whose output it is given and nobody has changed, or None.
    """

    name: str
    module: nn.Module
    follows: str | None


@functools.lru_cache(maxsize=32)
def executed_layers(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[ExecutedLayer, ...]:
    """Lists the layers in the order in which they compute; nothing is computed.

    Args:
      model: any module that is called as a `ResNet`.
      image_shape: (height, width, channels).

    >>> from resnet_jax import models
    >>> [layer.name for layer in executed_layers(models.create("cifar_resnet8"), (8, 8, 1))][:4]
    ['conv1', 'bn1', 'stage1/block1/conv1', 'stage1/block1/bn1']
    """
    calls: dict[tuple[str, ...], tuple[nn.Module, tuple[str, ...] | None]] = {}
    convolved: Any = (None, ())

    def record(method, args, kwargs, context):
        nonlocal convolved
        output, module = method(*args, **kwargs), context.module
        if context.method_name == "__call__" and isinstance(module, Conv | nn.Conv | BatchNorm | nn.Dense):
            calls[module.path] = module.clone(parent=None), convolved[1] if args[0] is convolved[0] else None
            if isinstance(module, Conv | nn.Conv):
                convolved = output, module.path
        return output

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        shapes = jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)

    def length(path: tuple[str, ...]) -> int:
        leaf = jax.tree.leaves(functools.reduce(lambda tree, name: tree[name], path, shapes["params"]))[0]
        return leaf.shape[0]

    found = []
    for part, group in itertools.groupby(calls, key=_part):
        members = list(group)
        names = [None]
        if part[-1] in (FIRST, REST):
            names = block_names(part[-1], 1 + length(members[0]) if is_stacked(part) else 1)
        for block, path in itertools.product(names, members):
            module, follows = calls[path]
            found.append(ExecutedLayer(_name(path, block), module, None if follows is None else _name(follows, block)))
    return tuple(found)


def _part(path: tuple[str, ...]) -> tuple[str, ...]:
    """A path up to the name that stands for a block or for several; of a layer outside of blocks the whole one."""
    return next((path[:i] for i, name in enumerate(path, 1) if name in (FIRST, REST)), path)


def _name(path: tuple[str, ...], block: str | None) -> str:
    part = _part(path)
    return "/".join(path if block is None else (*part[:-1], block, *path[len(part) :]))


def named(tree: Mapping[str, Any], name: str) -> Any:
    """What an unstacked tree holds under a name.

    >>> named({"stage1": {"block1": {"conv1": 5}}}, "stage1/block1/conv1")
    5
    """
    return functools.reduce(lambda tree, part: tree[part], name.split("/"), tree)


@flax.struct.dataclass
class Moments:
    """Mean and biased variance of each channel over images and positions, (channels,), given to and by a batch norm."""

    mean_in: Any
    var_in: Any
    mean_out: Any
    var_out: Any


def batch_norm_moments(
    classifier: Classifier,
    images: Num[Array | np.ndarray, "count height width channels"],
    train: bool = False,
    batch_size: int = 128,
) -> dict[str, Moments]:
    """What each batch norm is given and gives, over all images, by its name and in the order of execution.

    Args:
      classifier: any network whose batch norms are those of `models`.
      images: 0 to 255, uint8 or float, as the classifier is called with.
      train: each batch is normalised by its own statistics, as in training, also where parts are frozen; else by the
        running ones.
      batch_size: images at a time. With `train` the result depends on it, else but for rounding.

    Returns:
      float64 NumPy arrays.

    Raises:
      InputError: there is no image, the network has no batch norm, or `train` finds no whole batch-norm groups.
    """
    check_images(classifier, images)
    check_whole(batch_size=batch_size)
    if train:
        counts = {"batch_size": batch_size} if batch_size < len(images) else {}
        check_groups(classifier.model, **counts, **{"the number of images": len(images)})
    norms = [
        each
        for each in executed_layers(classifier.model, tuple(images.shape[1:]))
        if isinstance(each.module, BatchNorm)
    ]
    if not norms:
        raise InputError(f"a {type(classifier.model).__name__} has no batch norm to measure")
    found, sizes = [], []
    for batch in batches(images, batch_size):
        moments = _batch_moments(
            unfrozen(classifier.model), classifier.variables, classifier.preprocessing, batch, train
        )
        tree = unstack(jax.device_get(moments))
        found.append([named(tree, norm.name)[_MOMENTS] for norm in norms])
        sizes.append(len(batch))
    weights = np.array(sizes) / sum(sizes)
    return {norm.name: _pooled(each, weights) for norm, each in zip(norms, zip(*found, strict=True), strict=True)}


def batches(images: Any, batch_size: int) -> Iterator[Any]:
    """The images, so many at a time; the last ones may be fewer."""
    check_whole(batch_size=batch_size)
    return (images[start : start + batch_size] for start in range(0, len(images), batch_size))


def _pooled(batches: Any, weights: np.ndarray) -> Moments:
    def pool(mean_of: str, var_of: str) -> tuple[np.ndarray, np.ndarray]:
        means, variances = (np.array([getattr(b, each) for b in batches], np.float64) for each in (mean_of, var_of))
        mean = weights @ means
        return mean, weights @ (variances + np.square(means - mean))

    return Moments(*pool("mean_in", "var_in"), *pool("mean_out", "var_out"))


@functools.partial(jax.jit, static_argnames=("model", "train"))
def _batch_moments(model: nn.Module, variables: Any, preprocessing: Preprocessing, images: Any, train: bool) -> Any:
    def record(method, args, kwargs, context):
        output, module = method(*args, **kwargs), context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__":
            moments = Moments(*_channel_moments(args[0]), *_channel_moments(output))
            # Only moments leave a scan over blocks: the maps of all of them would fill the memory.
            nothing: Any = None
            module.sow("intermediates", _MOMENTS, moments, reduce_fn=lambda _, new: new, init_fn=lambda: nothing)
        return output

    with nn.intercept_methods(record):
        collections = ["intermediates", "batch_stats"] if train else ["intermediates"]
        _, updated = model.apply(variables, preprocessing(images), train=train, mutable=collections)
    return updated["intermediates"]


def _channel_moments(x: Float[Array, "b h w c"]) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x.mean((0, 1, 2)), x.var((0, 1, 2))
