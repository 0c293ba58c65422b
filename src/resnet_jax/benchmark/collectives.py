"""What the devices send each other in a training step: the command `resnet-jax benchmark collectives`."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from resnet_jax import models, sharding, terminal
from resnet_jax.benchmark.hlo import read_collectives
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.environment import describe_environment, environment_lines
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.training import schedules
from resnet_jax.training.state import TrainState, abstract_state
from resnet_jax.training.step import compile_stream_step

IMAGES_ON_A_DEVICE = 32  # the paper's 256 images on 8 GPUs


class Link(NamedTuple):
    """What devices are connected by.

    Attributes:
      name: of the link, and the devices that have it.
      bandwidth: bytes per second that a device can send while it receives as many, as its maker gives it.
      reach: the most devices that are connected so; None: any number.
    """

    name: str
    bandwidth: float
    reach: int | None


LINKS = (
    # NVIDIA H100 data sheet: 900 GB/s, which is both directions together; 8 GPUs are behind the switches of a DGX H100.
    Link("NVLink 4 (H100 SXM)", 450e9, 8),
    # NVIDIA DGX H100 user guide: a ConnectX-7 port of 400 Gb/s for each of its 8 GPUs.
    Link("InfiniBand NDR, 400 Gb/s each", 50e9, None),
    Link("Ethernet, 100 Gb/s each", 12.5e9, None),
    # Google Cloud, "TPU v5e": 400 GB/s in both directions together, over 4 ports of a chip; pods of 256 chips.
    Link("ICI (TPU v5e)", 200e9, 256),
    # Google Cloud, "TPU v5p": 1,200 GB/s in both directions together, a 3D torus; jobs of up to 6,144 chips.
    Link("ICI (TPU v5p)", 600e9, 6144),
)


def collectives_benchmark(
    model: str = "resnet50",
    *,
    shortcut: str | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    group_size: int | None = None,
    fsdp: int = 1,
    accumulate: int = 1,
    devices: Sequence[int] = (8, 64, 1024),
    step_time: float = 0.0,
) -> dict[str, Any]:
    """Reads from the compiled training step what devices send each other, and says how long published bandwidths take
    for it: a plan for machines that are not there.

    The step is that of `compile_stream_step`, compiled for so many CPU devices in a process for each number of them,
    without any data; nothing is run. Its collectives carry float32, whatever the dtype of the computation. Compilers
    for other devices can combine or split them in other ways, so that their number may differ, and their bytes may not.

    The times are those of the bandwidth alone: each operation has a latency too, and takes at least 2(n - 1) messages
    one after another in a ring of n devices. They suppose that one link carries everything that a device sends. Where 8
    devices of a host add up over NVLink before their sum goes to other hosts, each sends an 8th of that by the network.
    A torus of TPUs reaches its bandwidth when rings along all of its axes are used together.

    Args:
      model, shortcut: of `models.create`.
      batch_size: images in a step, over all devices; by default 32 for each one.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.
      group_size: images that share batch-norm statistics; by default the whole batch.
      fsdp: devices that share one copy of the parameters.
      accumulate: parts that the batch is cut into.
      devices: numbers of devices, each a plan of its own.
      step_time: seconds that a device computes in a step; 0 is unknown.

    Returns:
      a JSON-able dict: "environment", "arguments", "parameters" and "statistics" (float32 scalars of the network),
      "links" (a dict of each of `LINKS`), and "plans", one dict for each number of devices, with
        devices, batch_size;
        collectives: of one step, by kind and devices that take part, a list of {"kind", "devices", "count",
          "largest_bytes", "bytes" (of all of them, see `hlo.Collective`), "sent_bytes" (by each device)};
        bytes, sent_bytes: their sums;
        times: for each of the links {"name", "seconds", "share"}: seconds to send them, None where the link does not
          reach so many devices; and their share of a step in which nothing is computed meanwhile, None without
          `step_time`.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.
    """
    arguments = {**locals(), "devices": list(devices)}
    _check(batch_size, image_size, group_size, fsdp, accumulate, devices, step_time)
    try:
        network = models.create(model, shortcut=shortcut)
    except ValueError as error:
        raise InputError(str(error)) from error
    size = image_size or (224 if network.stem == "imagenet" else 32)
    step = {
        "model": model,
        "shortcut": network.shortcut,
        "image_size": size,
        "group_size": group_size,
        "fsdp": fsdp,
        "accumulate": accumulate,
    }
    plans, found = [], {}
    for count in devices:
        images = batch_size or IMAGES_ON_A_DEVICE * count
        found = _in_a_process({**step, "batch_size": images}, count)
        total = sum(row["sent_bytes"] for row in found["collectives"])
        plans.append(
            {
                "devices": count,
                "batch_size": images,
                "collectives": found["collectives"],
                "bytes": sum(row["bytes"] for row in found["collectives"]),
                "sent_bytes": total,
                "times": [_time(link, total, count, step_time) for link in LINKS],
            }
        )
    return {
        "environment": found["environment"],
        "arguments": {**arguments, **step, "batch_size": batch_size},
        "parameters": found["parameters"],
        "statistics": found["statistics"],
        "links": [link._asdict() for link in LINKS],
        "plans": plans,
    }


def _check(
    batch_size: int | None,
    image_size: int | None,
    group_size: int | None,
    fsdp: int,
    accumulate: int,
    devices: Sequence[int],
    step_time: float,
) -> None:
    if not devices:
        raise InputError("devices is empty: give numbers of devices, such as 8,64")
    given = [("batch_size", batch_size), ("image_size", image_size), ("group_size", group_size), ("fsdp", fsdp)]
    for argument, value in [*given, ("accumulate", accumulate), *(("devices", count) for count in devices)]:
        if value is not None and value < 1:
            raise InputError(f"{argument} is {value}, but it must be at least 1")
    if not (step_time >= 0 and math.isfinite(step_time)):
        raise InputError(f"step_time is {step_time:g}, but it must be seconds, or 0 where they are unknown")


def _time(link: Link, sent_bytes: float, devices: int, step_time: float) -> dict[str, Any]:
    reached = link.reach is None or devices <= link.reach
    seconds = sent_bytes / link.bandwidth if reached else None
    share = seconds / (seconds + step_time) if seconds is not None and step_time else None
    return {"name": link.name, "seconds": seconds, "share": share}


def _in_a_process(step: dict[str, Any], devices: int) -> dict[str, Any]:
    """Calls `_read_step` where there are so many CPU devices, which a process can choose only once."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
    code = "from resnet_jax.benchmark.collectives import _answer; _answer()"
    child = subprocess.run(
        [sys.executable, "-c", code, json.dumps(step)], env=environment, capture_output=True, text=True
    )
    if child.returncode:
        said = (child.stderr.strip().splitlines() or [f"its process ended with {child.returncode}"])[-1]
        raise InputError(f"the step could not be compiled for {devices} devices: {said}")
    answer = json.loads(child.stdout.splitlines()[-1])
    if "wrong" in answer:
        raise InputError(answer["wrong"])
    return answer


def _answer() -> None:
    try:
        answer = _read_step(**json.loads(sys.argv[1]))
    except InputError as error:
        answer = {"wrong": str(error)}
    print(json.dumps(answer))


def _read_step(
    model: str,
    shortcut: str | None,
    batch_size: int,
    image_size: int,
    group_size: int | None,
    fsdp: int,
    accumulate: int,
) -> dict[str, Any]:
    """Compiles a step for all devices of this process and counts its collectives."""
    mesh = sharding.make_mesh(fsdp=fsdp)
    sharding.check_divides(mesh, batch_size, "batch_size", accumulate=accumulate, group_size=group_size)
    network = models.create(model, shortcut=shortcut, group_size=group_size)
    state, compiled = compile_step(network, mesh, batch_size=batch_size, image_size=image_size, accumulate=accumulate)
    # Nothing is sent among one device.
    operations = {each: count for each, count in read_collectives(compiled).items() if each.devices > 1}
    rows = []
    for kind, devices in sorted({operation[:2] for operation in operations}):
        alike = [(each, count) for each, count in operations.items() if each[:2] == (kind, devices)]
        rows.append(
            {
                "kind": kind,
                "devices": devices,
                "count": sum(count for _, count in alike),
                "largest_bytes": max(each.bytes for each, _ in alike),
                "bytes": sum(count * each.bytes for each, count in alike),
                "sent_bytes": sum(count * each.sent_bytes for each, count in alike),
            }
        )
    return {
        "environment": describe_environment(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "statistics": sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats)),
        "collectives": rows,
    }


def compile_step(
    network: ResNet, mesh: Mesh, *, batch_size: int, image_size: int, accumulate: int = 1
) -> tuple[TrainState, jax.stages.Compiled]:
    """Compiles `compile_stream_step` for shapes alone, as it is with the paper's optimiser and augmentation.

    Args:
      network: of `models`.
      mesh: of CPU devices.
      batch_size: images in a step, over all devices.
      image_size: height and width in pixels.
      accumulate: parts that the batch is cut into.

    Returns:
      the shapes of the state, and the program.
    """
    optimizer = schedules.sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=1e-4)
    step = compile_stream_step(network, optimizer, mesh, noise=0.1, mirrored=True, accumulate=accumulate)
    state = abstract_state(network, optimizer, (image_size, image_size, 3), mesh)
    cut, everywhere = sharding.batch_sharded(mesh), sharding.replicated(mesh)
    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), jnp.uint8, sharding=cut)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=cut)
    mean = jax.ShapeDtypeStruct((1, 1, 3), jnp.float32, sharding=everywhere)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=everywhere)
    preprocessing = Preprocessing(mean, mean)  # pyright: ignore[reportArgumentType] (shapes stand for arrays)
    lowered = step.lower(state, images, labels, preprocessing, seed)
    # The program that XLA makes is the same without LLVM's optimisations, which take half of the time.
    return state, lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def render(result: dict[str, Any]) -> str:
    """Writes the dict of `collectives_benchmark` as tables, the environment first."""
    arguments = {**result["arguments"], "devices": ",".join(map(str, result["arguments"]["devices"]))}
    heading = [
        *environment_lines(result["environment"]),
        "arguments " + " ".join(f"{name}={value}" for name, value in arguments.items()),
        f"network   {result['parameters']:,} parameters and {result['statistics']:,} running statistics, float32",
        "compiled for CPU devices and not run; times are bytes / published bandwidth, without latency or overlap",
    ]
    sent, times = [], []
    for plan in result["plans"]:
        first = (f"{plan['devices']:,}", f"{plan['batch_size']:,}")
        if not plan["collectives"]:
            sent.append((*first, "none"))
        for row in plan["collectives"]:
            sizes = (_megabytes(row[size]) for size in ("largest_bytes", "bytes", "sent_bytes"))
            sent.append((*first, row["kind"], f"{row['devices']:,}", f"{row['count']:,}", *sizes))
            first = ("", "")
    for i, link in enumerate(result["links"]):
        cells = [_cell(plan["times"][i]) for plan in result["plans"]]
        times.append((link["name"], f"{link['bandwidth'] / 1e9:g}", *cells))
    counts = ("devices", "images", "collective", "among", "count", "largest (MB)", "all (MB)", "sent in a ring (MB)")
    links = ("link", "GB/s", *(f"{plan['devices']:,} devices" for plan in result["plans"]))
    tables = (
        terminal.table(counts, sent, "a step, each device", 0),
        terminal.table(links, times, "milliseconds to send it"),
    )
    return "\n".join([*heading, "", tables[0], "", tables[1]])


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.3f}"


def _cell(time: dict[str, Any]) -> str:
    if time["seconds"] is None:
        return "out of reach"
    share = "" if time["share"] is None else f" ({time['share']:.1%} of the step)"
    return f"{time['seconds'] * 1e3:,.3f}{share}"
