"""Parameters, multiply-adds and activation memory of a network, counted from its traced shapes.

Nothing is compiled or computed, and XLA's cost analysis is not asked: it counts the body of a scan once.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import NAMES, VGG, HighwayNet, ResNet, create
from resnet_jax.models.conv import Conv
from resnet_jax.models.highway import HighwayStage
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.stacking import FIRST, REST, block_names
from resnet_jax.models.vgg import VGGStage
from resnet_jax.models.zoo import family_and_depth

# By depth. Table 1 has multiply-adds of 224x224 images and does not say which shortcut; the text compares 18 and 34
# layers with A, and deeper nets have B. Table 6 has parameters, with shortcut A.
TABLE_1_MULTIPLY_ADDS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}
TABLE_6_PARAMETERS = {20: 0.27e6, 32: 0.46e6, 44: 0.66e6, 56: 0.85e6, 110: 1.7e6, 1202: 19.4e6}
# Sections 3.3 and 4.1.
VGG_MULTIPLY_ADDS = {16: 15.3e9, 19: 19.6e9}

_KINDS = {Conv: "conv", BatchNorm: "batch_norm", nn.Dense: "fc"}


@dataclass(frozen=True)
class Layer:
    """What one layer costs, for one image.

    Attributes:
      name: stage, block and layer, such as "conv3_x/block1/shortcut/conv".
      stage: "conv1", "conv2_x", …, "fc" as in table 1; "conv1", "stage1", …, "fc" of a CIFAR network; and "stage1", …,
        "fc" of a `VGG` and a `HighwayNet`.
      kind: "conv", "batch_norm", "max_pool" or "fc".
      input, output: shapes without the batch, (height, width, channels), or (features,) and (classes,).
      parameters: trained scalars: kernels, biases, gamma and beta; no running statistics.
      multiply_adds: of convolutions and the classifier; everything else counts as nothing (paper table 1).
      activation_bytes: kept from the forward to the backward pass, see `layer_costs`.
    """

    name: str
    stage: str
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


Network = ResNet | VGG | HighwayNet


def layer_costs(
    model: Network | Classifier | str, image_size: int | None = None, channels: int | None = None
) -> list[Layer]:
    """Lists the layers of a network in the order of execution, with what each costs for one image.

    The model may be a name, see `models.create`, or a classifier, whose images are meant then; of others the image size
    is 224 by default, or 32 for CIFAR's, and there are 3 channels.

    The activation memory is what reverse-mode differentiation keeps when it recomputes nothing, at the dtype of the
    computation: the output of every convolution (its batch norm differentiates with it), of every ReLU (listed with the
    batch norm before it; the next convolution and the ReLU itself read it), of the max pooling, and the pooled features
    (listed with the classifier). Sums and the outputs of batch norms and shortcuts are not read again and not counted,
    nor are the images, batch statistics, logits, parameters and the compiler's workspace. PyTorch's autograd saves
    this and the images, batch statistics and indices of the max pooling; XLA may keep more or less. Without batch norm
    the output of a convolution is that of its ReLU. What gates multiply is not counted, only the gates themselves.

    Raises:
      ValueError: the image size (height and width, in pixels) or the channels are not positive, the image is too small
        for the network's pooling, the classifier's images are not square, or the network is another one than these
        three.
    """
    model, image_size, channels = _completed(model, image_size, channels)
    if image_size < 1 or channels < 1:
        raise ValueError(f"images need at least one pixel and one channel, not {image_size} and {channels}")
    calls: dict[tuple[str, ...], Layer] = {}
    stem = getattr(model, "stem", None)

    def add(path: tuple[str, ...], kind: str, output: Any, params: Any, kept: Any, given: Any = None) -> None:
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        multiply_adds = math.prod(output.shape[1:-1]) * params["kernel"].size if "kernel" in params else 0
        # A shortcut's batch norm is followed by the addition and has no ReLU of its own.
        summed = kind == "batch_norm" and "shortcut" in path
        kept_bytes = 0 if summed else kept.size * kept.dtype.itemsize
        stage = _stage(path[0], stem)
        # What is pooled is what the layer before ends with.
        shown = given.shape[1:] if given is not None else list(calls.values())[-1].output
        calls[path] = Layer("/".join(path), stage, kind, shown, output.shape[1:], size, multiply_adds, kept_bytes)

    def record(method, args, kwargs, context):
        module = context.module
        if module.path == ("stage1",) and stem == "imagenet":
            add(("pool1",), "max_pool", args[0], {}, args[0])
        output = method(*args, **kwargs)
        if isinstance(module, HighwayStage) and module.pools:
            add((*module.path, "pool"), "max_pool", output, {}, output)
        if isinstance(module, VGGStage):
            # The layer fc6, with which its input is listed, reads the last one's.
            last = module.path == (f"stage{len(model.stage_sizes)}",)
            kept = jax.ShapeDtypeStruct((0,), output.dtype) if last else output
            add((*module.path, "pool"), "max_pool", output, {}, kept)
        kind = _KINDS.get(type(module))
        if kind is not None and context.method_name == "__call__":
            params, kept = module.variables["params"], args[0] if kind == "fc" else output
            add(module.path, kind, output, params, kept, args[0])
        return output

    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    with nn.intercept_methods(record):
        # The key is made inside, where it is traced: outside it would need a device.
        jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)

    layers = []
    for (module, *part), group in itertools.groupby(calls, key=lambda path: path[:2]):
        found = [(calls[path], path[2:]) for path in group]
        if not part or part[0] not in (FIRST, REST):
            layers += [layer for layer, _ in found]
            continue
        # Scanned blocks are traced once.
        for block in block_names(part[0], model.stage_sizes[int(module.removeprefix("stage")) - 1]):
            layers += [replace(layer, name="/".join([layer.stage, block, *rest])) for layer, rest in found]
    return layers


def _completed(model: Any, image_size: int | None, channels: int | None) -> tuple[Network, int, int]:
    """A network, and the size and the channels of its images where they are not given."""
    model, shape = create(model) if isinstance(model, str) else model, ()
    if isinstance(model, Classifier):
        model, shape = model.model, model.image_shape
    if not isinstance(model, Network):
        raise ValueError(f"costs are counted of ResNet, VGG and HighwayNet, not of {type(model).__name__}")
    if image_size is None and shape and shape[0] != shape[1]:
        raise ValueError(
            f"the classifier's images are {shape[0]} x {shape[1]}, but costs are of square ones: give image_size"
        )
    small = isinstance(model, HighwayNet) or getattr(model, "stem", None) == "cifar"
    usual, colors = (shape[0], shape[2]) if shape else (32 if small else 224, 3)
    return model, usual if image_size is None else image_size, colors if channels is None else channels


def _stage(module: str, stem: str | None) -> str:
    """The paper's name of the stage that a module of `ResNet` belongs to; CIFAR's stages have no name in the paper."""
    # Table 1 has the pooling in conv2_x.
    module = {"bn1": "conv1", "pool1": "stage1"}.get(module, module)
    if module.startswith("stage") and stem == "imagenet":
        return f"conv{int(module.removeprefix('stage')) + 1}_x"
    return module


def summary(
    model: Network | Classifier | str, image_size: int | None = None, channels: int | None = None
) -> dict[str, Any]:
    """Adds the costs of `layer_costs` up, by stage and in total; arguments and errors are its.

    Returns:
      a JSON-able dict with "shortcut", "image_size", "parameters", "multiply_adds", "activation_bytes" (per image),
      "stages", a list of dicts with "name", "output", "blocks" and the same three costs, and "paper": "parameters" and
      "multiply_adds" as tables 6 and 1 and section 3.3 state them, None where they do not.

    >>> costs = summary("resnet50")
    >>> costs["parameters"], costs["multiply_adds"], costs["paper"]["multiply_adds"]
    (25557032, 3857973248, 3800000000.0)
    """
    model, size, channels = _completed(model, image_size, channels)
    layers = layer_costs(model, size, channels)
    stages = []
    for name, group in itertools.groupby(layers, key=lambda layer: layer.stage):
        members = list(group)
        blocks = {layer.name.split("/")[1] for layer in members if "/block" in layer.name}
        stages.append({"name": name, "output": list(members[-1].output), "blocks": len(blocks), **_totals(members)})
    shortcut = "identity" if isinstance(model, HighwayNet) else getattr(model, "shortcut", None)
    costs = {"shortcut": shortcut, "image_size": size, **_totals(layers)}
    return costs | {"stages": stages, "paper": _stated(model, size, channels)}


def _stated(model: Network, image_size: int, channels: int) -> dict[str, float | None]:
    parameters = multiply_adds = None
    if isinstance(model, VGG):
        name = f"vgg{sum(model.stage_sizes) + 3}"
        usual = name in NAMES and model == create(name, dtype=model.dtype, dropout=model.dropout)
        if usual and (image_size, channels) == (224, 3):
            multiply_adds = VGG_MULTIPLY_ADDS[int(name[3:])]
    elif isinstance(model, ResNet) and channels == 3 and _printed(model):
        _, depth = family_and_depth(model)
        if model.stem == "cifar":
            parameters = TABLE_6_PARAMETERS.get(depth) if model.shortcut == "A" else None
        elif (model.bottleneck_stride, image_size) == ("1x1", 224):
            shortcuts = ("A", "B", None) if depth < 50 else ("B",)
            multiply_adds = TABLE_1_MULTIPLY_ADDS.get(depth) if model.shortcut in shortcuts else None
    return {"parameters": parameters, "multiply_adds": multiply_adds}


def _printed(model: ResNet) -> bool:
    """Whether it is a residual or plain network of the paper's, whatever its shortcuts and strides."""
    family, depth = family_and_depth(model)
    if family.removeprefix("cifar_") not in ("resnet", "plain") or f"{family}{depth}" not in NAMES:
        return False
    usual = create(f"{family}{depth}")
    fields = ("stage_sizes", "widths", "bottleneck", "block_layers", "num_classes")
    return all(getattr(model, field) == getattr(usual, field) for field in fields)


def _totals(layers: Sequence[Layer]) -> dict[str, int]:
    costs = ("parameters", "multiply_adds", "activation_bytes")
    return {cost: sum(getattr(layer, cost) for layer in layers) for cost in costs}


def table_rows(costs: dict[str, Any]) -> list[Sequence[str]]:
    """A `summary` for people: the headings, the stages, a gap, the total, and the figures under "paper" if any."""

    def numbers(row):
        mega, mebi = row["multiply_adds"] / 1e6, row["activation_bytes"] / 2**20
        return f"{row['parameters']:,}", f"{mega:,.1f}", f"{mebi:,.2f}"

    headings = ("stage", "output", "blocks", "parameters", "multiply-adds (M)", "activations (MiB/image)")
    rows: list[Sequence[str]] = [headings]
    for stage in costs["stages"]:
        output = "×".join(map(str, stage["output"]))
        rows.append((stage["name"], output, str(stage["blocks"] or ""), *numbers(stage)))
    rows += [(), ("total", "", "", *numbers(costs))]
    parameters, multiply_adds = costs["paper"]["parameters"], costs["paper"]["multiply_adds"]
    if parameters or multiply_adds:
        said = f"{parameters / 1e6:g}M" if parameters else "", f"{multiply_adds / 1e6:,.0f}" if multiply_adds else ""
        rows.append(("paper", "", "", *said, ""))
    return rows
