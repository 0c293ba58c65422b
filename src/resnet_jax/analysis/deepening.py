"""Deeper networks that compute what shallower ones do: the construction of the paper's introduction."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Num

from resnet_jax import rng
from resnet_jax.analysis.execution import batch_norm_moments
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier, check_classifier
from resnet_jax.models import ResNet, init, stack, unstack


def deepen(
    classifier: Classifier,
    stage_sizes: Sequence[int],
    images: Num[Array | np.ndarray, "count height width channels"] | None = None,
    *,
    seed: int = 0,
) -> Classifier:
    """The network with more blocks at the end of each stage, which pass on what they are given.

    "There exists a solution by construction to the deeper model: the added layers are identity mapping, and the other
    layers are copied from the learned shallower model" (section 1). What enters a block is not negative, so that ReLUs
    pass it, and the maps that stages end with are equal to the bit where batch norms go by running statistics and these
    `images` are None. The logits are equal but for rounding: the average of equal maps is compiled in another program.

    A residual block passes its input on where the scale and the bias of its last batch norm are zero; its convolutions
    are drawn, and learn. A plain one does where each convolution copies its channels and no batch norm changes them.

    Args:
      classifier: a `ResNet`. Plain bottleneck blocks have too few channels to pass anything on.
      stage_sizes: blocks in each stage, at least as many as there are.
      images: 0 to 255, uint8 or float. With them the new batch norms of plain blocks have the scale and the bias that
        are the standard deviation and the mean of what reaches them, which makes them nearly identities in training
        too, where they normalise by a batch's statistics; and maps, too, are equal but for rounding.
      seed: of the convolutions that are drawn.

    Raises:
      InputError: the blocks cannot be added.

    Example:
      >>> import jax, numpy as np, resnet_jax as rj
      >>> model, shape = rj.create("cifar_resnet8"), (8, 8, 1)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> norm = rj.data.Preprocessing.of_channels([0.5], [0.25])
      >>> classifier = rj.Classifier(model, variables, norm, tuple("0123456789"), shape)
      >>> deeper, images = deepen(classifier, (1, 2, 3)), np.full((1, 8, 8, 1), 200, np.uint8)
      >>> np.allclose(deeper(images), classifier(images), rtol=1e-5)
      True
    """
    model, old = checked(classifier, "the sizes of its stages"), classifier.model.stage_sizes
    given = np.asarray(stage_sizes)
    if given.dtype.kind not in "iu" or given.shape != (len(old),) or (given < old).any():
        raise InputError(f"stage_sizes is {stage_sizes!r}, but stages of {old} blocks become at least as large")
    sizes = tuple(given.tolist())
    deeper = model.clone(stage_sizes=sizes)
    drawn = unstack(jax.device_get(init(deeper, classifier.image_shape, rng.stream(seed, "deepening"))))
    variables, new = unstack(jax.device_get(classifier.variables)), []
    for i, (had, size) in enumerate(zip(old, sizes, strict=True), 1):
        for name in (f"stage{i}/block{block}" for block in range(had + 1, size + 1)):
            put_block(variables, name, passing_on(model, block_of(drawn, name), with_projection=True))
            new.append(name)
    made = classifier.replace(model=deeper, variables=stack(variables))
    return made if images is None or not new else _matched(made, new, images)


def _matched(classifier: Classifier, names: Sequence[str], images: Any) -> Classifier:
    """With batch norms of these blocks, where they pass something on, that do so by the images' own statistics."""
    moments = batch_norm_moments(classifier, images)
    variables = unstack(classifier.variables)
    for name in names:
        block = block_of(variables, name)
        for path, scale in _scales(block["params"]):
            # A residual branch ends with zero, and its other batch norms pass nothing on.
            if classifier.model.shortcut is not None and path[0] != "shortcut":
                continue
            each = moments["/".join((name, *path))]
            std = np.sqrt(each.var_in + classifier.model.epsilon)
            values = {"scale": std, "bias": each.mean_in}, {"mean": each.mean_in, "var": each.var_in}
            for collection, value in zip(("params", "batch_stats"), values, strict=True):
                block[collection] = _with(block[collection], path, {k: v.astype(scale.dtype) for k, v in value.items()})
        put_block(variables, name, block)
    return classifier.replace(variables=stack(variables))


def checked(classifier: Any, then: str) -> ResNet:
    """The network of a classifier, where its blocks are those that are known here."""
    check_classifier(classifier, then)
    model = classifier.model
    if type(model) is not ResNet:
        raise InputError(f"the blocks of a {type(model).__name__} are not known here: only those of ResNets are")
    if model.gates is not None or (model.preactivation and model.shortcut is None):
        raise InputError("blocks with gates, and plain ones with preactivation, do not pass on what they are given")
    return model


def block_of(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The variables {"params": …, "batch_stats": …} of a block, such as "stage1/block2", of an unstacked network."""
    stage, block = name.split("/")
    return {collection: variables[collection][stage][block] for collection in ("params", "batch_stats")}


def put_block(variables: dict[str, Any], name: str, block: Mapping[str, Any]) -> None:
    """Puts a block's variables into an unstacked network, whose own dicts alone are changed."""
    stage, place = name.split("/")
    for collection, values in block.items():
        variables[collection][stage] = {**variables[collection][stage], place: values}


def passing_on(model: ResNet, block: Mapping[str, Any], *, with_projection: bool = False) -> dict[str, Any]:
    """The variables of a block that gives what its shortcut does, in evaluation, to the bit.

    A residual block does where its branch ends with zeros, whatever comes before. A plain one has no shortcut and gives
    what option A would: each convolution copies its channels, and what batch norms are given is not changed.

    Args:
      model: the network.
      block: its variables, see `block_of`.
      with_projection: a projection on the shortcut copies too.

    Raises:
      InputError: it is a plain one that lacks channels.
    """
    params, batch_stats = dict(block["params"]), dict(block["batch_stats"])
    convolutions = sorted(name for name in params if name.startswith("conv"))
    if model.shortcut is not None:
        # With preactivation a convolution comes last.
        last = f"{'conv' if model.preactivation else 'bn'}{len(convolutions)}"
        params[last] = jax.tree.map(np.zeros_like, params[last])
        if with_projection and "shortcut" in params:
            params["shortcut"], statistics = dict(params["shortcut"]), dict(batch_stats.get("shortcut", {}))
            _copy(params["shortcut"], statistics, "conv", "bn", model.epsilon)
            batch_stats |= {"shortcut": statistics} if statistics else {}
        return {"params": params, "batch_stats": batch_stats}
    for name in convolutions:
        channels, features = params[name]["kernel"].shape[2:]
        if features < channels:
            raise InputError(f"a plain block cannot pass on {channels} channels: its {name} has {features} features")
        _copy(params, batch_stats, name, name.replace("conv", "bn"), model.epsilon)
    return {"params": params, "batch_stats": batch_stats}


def _copy(params: dict[str, Any], batch_stats: dict[str, Any], conv: str, norm: str, epsilon: float) -> None:
    """Makes a convolution and its batch norm copy what they are given."""
    kernel = np.zeros_like(params[conv]["kernel"])
    centre = (kernel.shape[0] - 1) // 2
    kernel[centre, centre] = np.eye(*kernel.shape[2:])
    params[conv] = {"kernel": kernel}
    if norm not in params:  # a projection of preactivation
        return
    scale = np.ones_like(params[norm]["scale"])
    params[norm] = {"scale": scale, "bias": np.zeros_like(scale)}
    # In float32 too, 1 - 1e-5 + 1e-5 is 1.
    batch_stats[norm] = {"mean": np.zeros_like(scale), "var": scale - np.float32(epsilon)}


def _scales(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The paths of the batch norms, and their scales."""
    if "scale" in params:
        return [(path, params["scale"])]
    found = (_scales(each, (*path, name)) for name, each in params.items() if isinstance(each, Mapping))
    return [each for part in found for each in part]


def _with(tree: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    return {**tree, name: _with(tree[name], rest, value) if rest else value}
