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

from resnet_jax.models.conv import Conv
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.zoo import create

# Table 1, 224x224 images. It does not say which shortcut; the text compares 18 and 34 layers with A, and deeper nets
# have B.
TABLE_1_MULTIPLY_ADDS: dict[tuple[str, str | None], float] = {
    ("plain18", None): 1.8e9,
    ("plain34", None): 3.6e9,
    ("resnet18", "A"): 1.8e9,
    ("resnet18", "B"): 1.8e9,
    ("resnet34", "A"): 3.6e9,
    ("resnet34", "B"): 3.6e9,
    ("resnet50", "B"): 3.8e9,
    ("resnet101", "B"): 7.6e9,
    ("resnet152", "B"): 11.3e9,
}
TABLE_6_PARAMETERS: dict[tuple[str, str | None], float] = {
    ("cifar_resnet20", "A"): 0.27e6,
    ("cifar_resnet32", "A"): 0.46e6,
    ("cifar_resnet44", "A"): 0.66e6,
    ("cifar_resnet56", "A"): 0.85e6,
    ("cifar_resnet110", "A"): 1.7e6,
    ("cifar_resnet1202", "A"): 19.4e6,
}


@dataclass(frozen=True)
class Layer:
    """What one layer costs, for one image.

    Attributes:
      name: stage, block and layer, such as "conv3_x/block1/shortcut/conv".
      stage: "conv1", "conv2_x", …, "fc" as in table 1, or "conv1", "stage1", …, "fc" of a CIFAR network.
      kind: "conv", "batch_norm", "max_pool" or "fc".
      output: shape without the batch, (height, width, channels) or (classes,).
      parameters: trained scalars: kernels, gamma and beta, the classifier's bias; no running statistics.
      multiply_adds: of convolutions and the classifier; everything else counts as nothing (paper table 1).
      activation_bytes: kept from the forward to the backward pass, see `complexity`.
    """

    name: str
    stage: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


def complexity(model: ResNet, image_size: int, channels: int = 3) -> list[Layer]:
    """Lists the layers of a network in the order of execution, with what each costs for one image.

    The activation memory is what reverse-mode differentiation keeps when it recomputes nothing, at the dtype of the
    computation: the output of every convolution (its batch norm differentiates with it), of every ReLU (listed with the
    batch norm before it; the next convolution and the ReLU itself read it), of the max pooling, and the pooled features
    (listed with the classifier). Sums and the outputs of batch norms and shortcuts are not read again and not counted,
    nor are the images, batch statistics, logits, parameters and the compiler's workspace. PyTorch's autograd saves
    this and the images, batch statistics and indices of the max pooling; XLA may keep more or less.

    Args:
      model: any `ResNet`.
      image_size: height and width, in pixels.
      channels: of the images.

    Returns:
      one `Layer` for each convolution, batch norm, max pooling and classifier; their sums are the network's.

    Raises:
      ValueError: the image size or the channels are not positive.
    """
    if image_size < 1 or channels < 1:
        raise ValueError(f"images need at least one pixel and one channel, not {image_size} and {channels}")
    calls, variables = _trace(model, image_size, channels)

    layers = []
    for block, group in itertools.groupby(calls.items(), key=lambda call: call[0][:2]):
        if len(block) == 1:
            layers += [layer for _, layer in group]
            continue
        # Scanned blocks are traced once, and their parameters are stacked.
        traced = [(path[2:], layer) for path, layer in group]
        copies = _size(_at(variables["params"], block)) // sum(layer.parameters for _, layer in traced)
        start = 2 if block[1] == "rest" else 1
        layers += [
            replace(layer, name="/".join([layer.stage, f"block{i}", *path]))
            for i in range(start, start + copies)
            for path, layer in traced
        ]
    return layers


def _trace(model: ResNet, image_size: int, channels: int) -> tuple[dict[tuple[str, ...], Layer], Any]:
    """Traces `model.init` and returns every layer that it calls, by module path, and the shapes of the variables."""
    kinds = {Conv: "conv", BatchNorm: "batch_norm", nn.Dense: "fc"}
    calls = {}

    def add(path, kind, output, parameters, multiply_adds, kept):
        calls[path] = Layer(
            "/".join(path), _stage(path[0], model.stem), kind, output.shape[1:], parameters, multiply_adds, _bytes(kept)
        )

    def record(method, args, kwargs, context):
        module = context.module
        if module.path == ("stage1",) and model.stem == "imagenet":
            add(("pool1",), "max_pool", args[0], 0, 0, args[0])
        output = method(*args, **kwargs)
        kind = kinds.get(type(module))
        if kind is not None and context.method_name == "__call__":
            params = module.variables["params"]
            positions = math.prod(output.shape[1:-1])
            multiply_adds = positions * params["kernel"].size if "kernel" in params else 0
            # A shortcut's batch norm is followed by the addition and has no ReLU of its own.
            summed = kind == "batch_norm" and "shortcut" in module.path
            kept = None if summed else args[0] if kind == "fc" else output
            add(module.path, kind, output, _size(params), multiply_adds, kept)
        return output

    def init():
        images = jnp.zeros((1, image_size, image_size, channels))
        return model.init(jax.random.key(0), images, train=False)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(init)
    return calls, variables


def _at(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(x: jax.Array | None) -> int:
    return 0 if x is None else x.size * x.dtype.itemsize


def _stage(module: str, stem: str) -> str:
    """The paper's name of the stage that a module of `ResNet` belongs to; CIFAR's stages have no name in the paper."""
    if module == "bn1":
        return "conv1"
    # Table 1 has the pooling in conv2_x.
    module = "stage1" if module == "pool1" else module
    if module.startswith("stage") and stem == "imagenet":
        return f"conv{int(module.removeprefix('stage')) + 1}_x"
    return module


def summary(model: ResNet, image_size: int, channels: int = 3) -> dict[str, Any]:
    """Adds the costs of `complexity` up, by stage and in total.

    Returns:
      a JSON-able dict with "shortcut", "image_size", "parameters", "multiply_adds", "activation_bytes" (per image) and
      "stages", a list of dicts with "name", "output", "blocks" and the same three costs.
    """
    layers = complexity(model, image_size, channels)
    stages = []
    for name, group in itertools.groupby(layers, key=lambda layer: layer.stage):
        members = list(group)
        blocks = {layer.name.split("/")[1] for layer in members if "/" in layer.name}
        stages.append({"name": name, "output": list(members[-1].output), "blocks": len(blocks), **_totals(members)})
    return {"shortcut": model.shortcut, "image_size": image_size, **_totals(layers), "stages": stages}


def _totals(layers: Sequence[Layer]) -> dict[str, int]:
    costs = ("parameters", "multiply_adds", "activation_bytes")
    return {cost: sum(getattr(layer, cost) for layer in layers) for cost in costs}


def table_rows(costs: dict[str, Any]) -> list[Sequence[str]]:
    """A `summary` for people: the headings, the stages, the total, and the figures under "paper" if any.

    An empty row is a gap.
    """

    def numbers(row):
        return (
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e6:,.1f}",
            f"{row['activation_bytes'] / 2**20:,.2f}",
        )

    headings = ("stage", "output", "blocks", "parameters", "multiply-adds (M)", "activations (MiB/image)")
    rows: list[Sequence[str]] = [headings]
    for stage in costs["stages"]:
        output = "×".join(map(str, stage["output"]))
        rows.append((stage["name"], output, str(stage["blocks"] or ""), *numbers(stage)))
    rows += [(), ("total", "", "", *numbers(costs))]
    paper = costs.get("paper", {})
    if any(paper.values()):
        parameters = f"{paper['parameters'] / 1e6:g}M" if paper["parameters"] else ""
        multiply_adds = f"{paper['multiply_adds'] / 1e6:,.0f}" if paper["multiply_adds"] else ""
        rows.append(("paper", "", "", parameters, multiply_adds, ""))
    return rows


def run_summary(model_name: str, shortcut: str | None = None, image_size: int | None = None) -> dict[str, Any]:
    """What a network of `models.create` costs, beside what the paper states: the command `resnet-jax summary`.

    Args:
      model_name: such as "resnet50" or "cifar_resnet110".
      shortcut: "A", "B" or "C"; by default the network's own.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.

    Returns:
      the dict of `summary` with "model" and "paper", what tables 1 and 6 state.

    Raises:
      ValueError: the model, the shortcut or the image size does not exist.
    """
    model = create(model_name, shortcut=shortcut)
    usual_size = 224 if model.stem == "imagenet" else 32
    size = usual_size if image_size is None else image_size
    network = (model_name, model.shortcut)
    return {
        "model": model_name,
        **summary(model, size),
        "paper": {
            "parameters": TABLE_6_PARAMETERS.get(network),
            "multiply_adds": TABLE_1_MULTIPLY_ADDS.get(network) if size == usual_size else None,
        },
    }
