"""The convolutions of a network and their gradients, each alone: what of a training step they take, and how fast.

    python experiments/benchmarks/convolutions.py [--form=ours|torch] [--model=cifar_resnet20] [--batch_size=128]
        [--image_size=N] [--rounds=7] [--format=table|json]

Each distinct convolution is timed in float32, as a program of its own whose arrays are at hand: the convolution, the
gradient of its input and that of its kernel. Times how often the network has it, their sum is what a step cannot go
below with these convolutions, whatever else is fused or left out. `torch` is PyTorch, channels last. Each form has a
process of its own, since threads of one library that wait busily would slow the other. RESNET_JAX_ONEDNN=0 in the
environment leaves out the extra `onednn`.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from resnet_jax import create
from resnet_jax.analysis import layer_costs
from resnet_jax.benchmark.measuring import check_choice, heading, in_turn, spread
from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.cli.main import exit_status
from resnet_jax.distributed.compiler import jit
from resnet_jax.distributed.machine import describe_host
from resnet_jax.models.conv import conv
from resnet_jax.runs.terminal import table

# A round repeats a call for about so many seconds.
_ROUND = 0.1
PARTS = ("forward", "input gradient", "kernel gradient")


class Convolution(NamedTuple):
    """Shapes of the images (height, width, channels), and of the kernel."""

    image: tuple[int, ...]
    kernel: tuple[int, int, int, int]
    stride: int
    first: bool

    def arrays(self, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, kernel and the gradient of the output."""
        rng = np.random.default_rng(0)
        out = (-(-self.image[0] // self.stride), -(-self.image[1] // self.stride), self.kernel[3])
        shapes = ((batch_size, *self.image), self.kernel, (batch_size, *out))
        x, kernel, gradient = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        return x, kernel, gradient


def convolutions(model: str, image_size: int | None) -> tuple[dict[Convolution, int], dict[Convolution, int]]:
    """How often the network has each, and the operations of each for one image."""
    count, operations = Counter(), {}
    for layer in layer_costs(create(model), image_size):
        if layer.kind == "conv":
            channels, features = layer.input[-1], layer.output[-1]
            size = math.isqrt(layer.parameters // (channels * features))
            stride = round(layer.input[0] / layer.output[0])
            each = Convolution(layer.input, (size, size, channels, features), stride, layer.name == "conv1")
            count[each] += 1
            operations[each] = 2 * layer.multiply_adds
    return dict(count), operations


def _ours(one: Convolution, batch_size: int) -> list[Callable[[], Any]]:
    x, kernel, gradient = map(jax.device_put, one.arrays(batch_size))
    padding = ((one.kernel[0] // 2,) * 2,) * 2
    forward = jit(lambda x, kernel: conv(x, kernel, one.stride, padding))
    to_input = jit(lambda x, kernel, dy: jax.vjp(lambda x: conv(x, kernel, one.stride, padding), x)[1](dy))
    to_kernel = jit(lambda x, kernel, dy: jax.vjp(lambda kernel: conv(x, kernel, one.stride, padding), kernel)[1](dy))
    return [
        lambda: jax.block_until_ready(forward(x, kernel)),
        lambda: jax.block_until_ready(to_input(x, kernel, gradient)),
        lambda: jax.block_until_ready(to_kernel(x, kernel, gradient)),
    ]


def _torch(one: Convolution, batch_size: int) -> list[Callable[[], Any]]:
    import torch

    def channels_last(array: np.ndarray, *order: int) -> torch.Tensor:
        return torch.from_numpy(array.transpose(order).copy()).to(memory_format=torch.channels_last)

    x, kernel, gradient = one.arrays(batch_size)
    x, kernel, gradient = (
        channels_last(x, 0, 3, 1, 2),
        channels_last(kernel, 3, 2, 0, 1),
        channels_last(gradient, 0, 3, 1, 2),
    )
    stride, padding = [one.stride] * 2, [one.kernel[0] // 2] * 2

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, stride, padding, [1, 1], False, [0, 0], 1, [*wanted, False]
        )

    return [
        lambda: torch.nn.functional.conv2d(x, kernel, None, stride, padding),
        lambda: backward(True, False),
        lambda: backward(False, True),
    ]


FORMS = {"ours": _ours, "torch": _torch}


def _rounds(call: Callable[[], Any]) -> Callable[[], float]:
    """Gives a function that is a round and returns the seconds of a call."""

    def timed(repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - started) / repeats

    timed(1)  # compiles
    repeats = max(1, round(_ROUND / timed(1)))
    return lambda: timed(repeats)


@command
def measure(
    *,
    form: str = "ours",
    model: str = "cifar_resnet20",
    batch_size: int = 128,
    image_size: int | None = None,
    rounds: int = 7,
    format: Format = "table",
) -> None:
    """The command; as JSON: "environment", "arguments", "convolutions", a list with the seconds of each part, and
    "step", the sum of their medians over the network.
    """
    check_choice("--form", form, FORMS)
    count, operations = convolutions(model, image_size)
    rows, step = [], 0.0
    for one, times in count.items():
        calls = dict(zip(PARTS, FORMS[form](one, batch_size), strict=True))
        if one.first:
            del calls["input gradient"]
        for part, seconds in zip(calls, in_turn([_rounds(call) for call in calls.values()], rounds), strict=True):
            rows.append(
                {"image": one.image, "kernel": one.kernel, "stride": one.stride, "times": times, "part": part}
                | {"seconds": spread(seconds), "operations": batch_size * operations[one]}
            )
            step += times * float(np.median(seconds))
    arguments = {"form": form, "model": model, "batch_size": batch_size, "image_size": image_size, "rounds": rounds}
    result = {"environment": describe_host(), "arguments": arguments, "convolutions": rows, "step": step}
    show(format, result, lambda: "\n".join([*heading(result), "", as_table(result)]))


def as_table(result: dict[str, Any]) -> str:
    """For people: milliseconds and G operations/s of each, and the sum."""
    rows = [
        (
            "x".join(map(str, row["image"])),
            "x".join(map(str, row["kernel"])) + f" / {row['stride']}",
            row["part"],
            str(row["times"]),
            f"{1e3 * row['seconds']['median']:.2f}",
            f"{row['operations'] / row['seconds']['median'] / 1e9:.0f}",
        )
        for row in result["convolutions"]
    ]
    columns = ("images", "kernel / stride", "part", "times", "ms", "G operations/s")
    return f"{table(columns, rows)}\n\nall of a step: {1e3 * result['step']:.0f} ms"


if __name__ == "__main__":
    raise SystemExit(exit_status(lambda: measure(sys.argv[1:])))
