"""How fast a network scores images: the command `resnet-jax benchmark eval`."""

import time
from typing import Any

import jax
import numpy as np

from resnet_jax import models, rng
from resnet_jax.benchmark.measuring import heading, in_turn, network_of, peak_bytes, spread, timed, written
from resnet_jax.benchmark.roofline import roofline, roofline_lines, shares
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, replicated
from resnet_jax.errors import check_whole
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.runs.terminal import table


def eval_benchmark(
    model: str = "cifar_resnet20",
    *,
    shortcut: str | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    steps: int = 10,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures on all devices what `evaluate` and `predict` run, a classifier on uint8 images, which lie there already.

    Args:
      model, shortcut: of `models.create`.
      batch_size: images in a step, over all devices.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.
      dtype: of the computation, "float32" or "bfloat16".
      steps: batches in a round; they queue up.
      rounds: timed, after one that is not.

    Returns:
      a JSON-able dict: "environment", "arguments", "multiply_adds" (of one image), "peak_bytes_in_use" (of the first
      device and this process so far, or None), "roofline", see `roofline.roofline`, and

        step_time: seconds of a batch, {"median", "q1", "q3", "n"} over the rounds, and images_per_second of the median;
        share_of_peak, share_of_roofline: see `train_benchmark`;
        first_step_time: seconds of the first batch, which is traced and compiled where this process has not done so.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.

    >>> found = eval_benchmark("cifar_resnet8", image_size=8, batch_size=8, steps=1, rounds=1)
    >>> found["images_per_second"] > 0, 0 < found["share_of_peak"] < 1
    (True, True)
    """
    arguments = dict(locals())
    check_whole(batch_size=batch_size, steps=steps, rounds=rounds)
    network, costs = network_of(model, shortcut, dtype, image_size)
    size, mesh = costs["image_size"], make_mesh()
    check_divides(mesh, batch_size, "batch_size")
    shape = (size, size, 3)
    variables = models.init(network, shape, rng.stream(0, "parameters"))
    names = tuple(map(str, range(network.num_classes)))
    classifier = Classifier(network, variables, Preprocessing.of_channels(), names, shape)
    classifier = jax.device_put(classifier, replicated(mesh))
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *shape), np.uint8)
    images = jax.device_put(pixels, batch_sharded(mesh))

    def score() -> jax.Array:
        return protocols.scores(protocols.Protocol("original"), classifier, images)

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready([score() for _ in range(steps)])
        return time.perf_counter() - started

    _, first_step_time = timed(score)
    (times,) = np.array(in_turn([run], rounds)) / steps
    # Before the devices' own peaks are measured, which takes memory too.
    memory, step_time = peak_bytes(), float(np.median(times))
    bound = roofline(network, size, batch_size, dtype, train=False)
    return {
        "environment": describe_environment(),
        "arguments": {**arguments, "shortcut": network.shortcut, "image_size": size},
        "multiply_adds": costs["multiply_adds"],
        "peak_bytes_in_use": memory,
        "roofline": bound,
        "step_time": spread(times),
        "images_per_second": batch_size / step_time,
        **shares(bound, step_time),
        "first_step_time": first_step_time,
    }


def as_text(result: dict[str, Any]) -> str:
    """Writes what `eval_benchmark` returns: the environment, the arguments, the roofline and a table."""
    step = written({key: 1e3 * value for key, value in result["step_time"].items()}, 2)
    reached = (f"{result[f'share_of_{part}']:.1%}" for part in ("peak", "roofline"))
    row = (f"{result['images_per_second']:,.1f}", step, *reached, f"{result['first_step_time']:.2f}")
    headings = ("images/s", "step (ms)", "of peak", "of roofline", "first step (s)")
    return "\n".join([*heading(result), *roofline_lines(result), "", table(headings, [row], text_columns=0)])
