"""How fast a network trains: the command `resnet-jax benchmark train`."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from resnet_jax.benchmark.measuring import (
    check_choice,
    heading,
    in_turn,
    network_of,
    peak_bytes,
    spread,
    timed,
    written,
)
from resnet_jax.benchmark.roofline import roofline, roofline_lines, shares
from resnet_jax.benchmark.steps import INPUTS, program_bytes, training_steps
from resnet_jax.data.batch import Batch
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, replicated
from resnet_jax.errors import InputError, check_whole
from resnet_jax.models import ResNet
from resnet_jax.models.layers import bn_groups
from resnet_jax.runs.terminal import table
from resnet_jax.training.state import create_state


class Variant(NamedTuple):
    """A way to run the same training: `network` makes the module that is trained from the one that was asked for; with
    `scan_steps` a round is one dispatch, instead of one for each step.
    """

    network: Callable[[ResNet], nn.Module]
    scan_steps: bool


VARIANTS = {
    "run": Variant(lambda network: network, scan_steps=True),
    "scanned": Variant(lambda network: network.clone(unroll=False), scan_steps=True),
    "rolled": Variant(lambda network: network.clone(unroll=False), scan_steps=False),
    "unrolled": Variant(lambda network: network.clone(unroll=True), scan_steps=False),
    "unrolled_scanned": Variant(lambda network: network.clone(unroll=True), scan_steps=True),
}


def train_benchmark(
    model: str = "cifar_resnet20",
    *,
    shortcut: str | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    bn_group_size: int | None = None,
    input: str = "device",
    variants: Mapping[str, Variant] | None = None,
    steps: int = 10,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures training on all devices, data-parallel; rounds of several variants alternate.

    Args:
      model, shortcut: of `models.create`.
      batch_size: images in a step, over all devices.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.
      dtype: of the computation, "float32" or "bfloat16".
      bn_group_size: images that share their batch-norm statistics, see `models.ResNet`; None is the whole batch.
      input: "device" makes every batch as training does, from uint8 images on the device, inside the step: shuffle,
        mean, crop, mirror. "synthetic" repeats one float batch; the difference is what the input costs.
      variants: by name, such as some of `VARIANTS`; the others are compared with the first one. By default "run", as
        a run does it.
      steps: updates in a round.
      rounds: timed, after one that is not.

    Returns:
      a JSON-able dict: "environment", "arguments", "multiply_adds" (of one forward pass of one image),
      "peak_bytes_in_use" (of the first device and this process so far, or None), "roofline" (what the devices do at
      best and what a step asks of them at least, see `roofline.roofline`), and "variants", one dict each with

        name, steps_per_dispatch, images_per_second (of the median step), loss (the last step's mean over the batch);
        step_time: seconds, and relative_speed: the first variant's time / this one's; a `spread` over the rounds;
        multiply_adds_per_second: three times those of the forward pass, which is usual;
        share_of_peak: operations per second / those of a large matrix product on these devices;
        share_of_roofline: the roofline's least time / the median step time;
        init_time: seconds to compile and draw the initial state;
        trace_time, compile_time: seconds of `lower` and `compile` of a dispatch (see "compilation_cache");
        first_dispatch_time: seconds of the first one, compiled before;
        program_bytes: what a dispatch holds on one device, arguments and temporaries, or None.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.
    """
    arguments = dict(locals())
    chosen = {"run": VARIANTS["run"]} if variants is None else variants
    check_choice("input", input, INPUTS)
    check_whole(batch_size=batch_size, steps=steps, rounds=rounds)
    network, costs = network_of(model, shortcut, dtype, image_size)
    cost, size = costs["multiply_adds"], costs["image_size"]
    mesh = make_mesh()
    check_divides(mesh, batch_size, "batch_size")
    if bn_group_size is not None:
        check_whole(bn_group_size=bn_group_size)
        try:
            bn_groups(batch_size // mesh.size, mesh.size, bn_group_size)
        except ValueError as error:
            raise InputError(str(error)) from error
        network = network.clone(bn_group_size=bn_group_size)

    prepared = [_prepare(variant, network, mesh, input, batch_size, size, steps) for variant in chosen.values()]
    measured = np.array(in_turn([run for run, _ in prepared], rounds))  # (variants, rounds, 2)
    # Before the devices' own peaks are measured, which takes memory too.
    memory = peak_bytes()
    bound = roofline(network, size, batch_size, dtype, train=True)
    times, results = measured[:, :, 0] / steps, []
    for name, (_, once), own, loss in zip(chosen, prepared, times, measured[:, -1, 1].tolist(), strict=True):
        images_per_second = batch_size / float(np.median(own))
        results.append(
            {
                "name": name,
                **once,
                "step_time": spread(own),
                "images_per_second": images_per_second,
                "multiply_adds_per_second": 3 * cost * images_per_second,
                "relative_speed": spread(times[0] / own),
                **shares(bound, float(np.median(own))),
                "loss": loss,
            }
        )
    return {
        "environment": describe_environment(),
        "arguments": {**arguments, "shortcut": network.shortcut, "image_size": size, "variants": list(chosen)},
        "multiply_adds": cost,
        "peak_bytes_in_use": memory,
        "roofline": bound,
        "variants": results,
    }


def _prepare(
    variant: Variant, network: ResNet, mesh: Mesh, input: str, batch_size: int, image_size: int, steps: int
) -> tuple[Callable[[], tuple[float, float]], dict[str, Any]]:
    """Compiles a variant and runs its first dispatch; returns a function that runs a round, and what is measured once.

    A round gives its seconds and the last loss. Its dispatches queue up, as they do in training.
    """
    model = variant.network(network)
    image_shape = (image_size, image_size, 3)
    per_dispatch = steps if variant.scan_steps else 1

    data, make_batch = INPUTS[input](batch_size, image_shape)
    optimizer, train_steps = training_steps(model, make_batch, mesh)
    state, init_time = timed(lambda: create_state(model, optimizer, 0, image_shape, mesh))
    place = batch_sharded(mesh) if isinstance(data, Batch) else replicated(mesh)
    data = jax.block_until_ready((jax.device_put(data, place), jax.device_put(np.uint32(0), replicated(mesh))))
    lowered, trace_time = timed(lambda: train_steps.lower(state, *data, per_dispatch))
    compiled, compile_time = timed(lowered.compile)

    def run(dispatches: int) -> tuple[float, float]:
        nonlocal state
        metrics: Any = None
        started = time.perf_counter()
        for _ in range(dispatches):
            state, metrics = compiled(state, *data)
        state, metrics = jax.block_until_ready((state, metrics))
        return time.perf_counter() - started, float(metrics["loss"].total[-1] / metrics["loss"].count[-1])

    return partial(run, steps // per_dispatch), {
        "steps_per_dispatch": per_dispatch,
        "init_time": init_time,
        "trace_time": trace_time,
        "compile_time": compile_time,
        "first_dispatch_time": run(1)[0],
        "program_bytes": program_bytes(compiled),
    }


def as_text(result: dict[str, Any]) -> str:
    """Writes what `train_benchmark` returns: the environment, the arguments, and two tables of the variants."""
    memory = result["peak_bytes_in_use"]
    peak = [] if memory is None else [f"memory    {memory / 2**20:,.1f} MiB at the peak, first device"]
    speed, once = [], []
    for row in result["variants"]:
        name, step = row["name"], written({key: 1e3 * value for key, value in row["step_time"].items()}, 2)
        reached = (f"{row[f'share_of_{part}']:.1%}" for part in ("peak", "roofline"))
        images, arithmetic = f"{row['images_per_second']:,.1f}", f"{row['multiply_adds_per_second'] / 1e9:,.1f}"
        speed.append((name, images, step, arithmetic, *reached, written(row["relative_speed"], 2)))
        times = (f"{row[f'{part}_time']:.2f}" for part in ("init", "trace", "compile", "first_dispatch"))
        program = "" if row["program_bytes"] is None else f"{row['program_bytes'] / 2**20:,.1f}"
        once.append((name, *times, program))
    first = ("variant", "images/s", "step (ms)", "multiply-adds/s (G)", "of peak", "of roofline", "relative")
    second = ("variant", "init (s)", "trace (s)", "compile (s)", "first dispatch (s)", "program (MiB)")
    return "\n".join(
        [*heading(result), *peak, *roofline_lines(result), "", table(first, speed), "", table(second, once)]
    )
