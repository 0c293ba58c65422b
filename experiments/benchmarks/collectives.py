"""What devices send each other in a training step, and how long published bandwidths take for it: a plan for machines
that are not there.

    python experiments/benchmarks/collectives.py [--model=resnet50] [--shortcut=A|B|C] [--batch_size=N]
        [--image_size=N] [--bn_group_size=N] [--fsdp=N] [--grad_accum_steps=N] [--devices=8,64,1024]
        [--step_time=SECONDS] [--json]

The step is that of training on image files, compiled for so many CPU devices in a process for each number of them;
nothing is run. Its collectives carry float32, whatever the dtype of the computation. Compilers for other devices can
combine or split them in other ways, so that their number may differ, and their bytes may not.

The times are those of the bandwidth alone: each operation has a latency too, and takes at least 2(n - 1) messages one
after another in a ring of n devices. They suppose that one link carries everything that a device sends. Where 8 devices
of a host add up over NVLink before their sum goes to other hosts, each sends an 8th of that by the network. A torus of
TPUs reaches its bandwidth when rings along all of its axes are used together.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial

import hlo
import jax
import jax.numpy as jnp
import optax

from resnet_jax import models, rng
from resnet_jax.data.augment import augment_images
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.machine import describe_environment, environment_lines
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, replicated
from resnet_jax.runs.terminal import table
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import compile_steps
from resnet_jax.training.state import abstract_state
from resnet_jax.training.step import train_step

IMAGES_ON_A_DEVICE = 32  # the paper's 256 images on 8 GPUs

# The name of a link and the devices that have it; bytes per second that a device can send while it receives as many,
# as its maker gives it; and the most devices that are connected so, None: any number.
LINKS = (
    # NVIDIA H100 data sheet: 900 GB/s, which is both directions together; 8 GPUs are behind the switches of a DGX H100.
    ("NVLink 4 (H100 SXM)", 450e9, 8),
    # NVIDIA DGX H100 user guide: a ConnectX-7 port of 400 Gb/s for each of its 8 GPUs.
    ("InfiniBand NDR, 400 Gb/s each", 50e9, None),
    ("Ethernet, 100 Gb/s each", 12.5e9, None),
    # Google Cloud, "TPU v5e": 400 GB/s in both directions together, over 4 ports of a chip; pods of 256 chips.
    ("ICI (TPU v5e)", 200e9, 256),
    # Google Cloud, "TPU v5p": 1,200 GB/s in both directions together, a 3D torus; jobs of up to 6,144 chips.
    ("ICI (TPU v5p)", 600e9, 6144),
)


def compile_step(network, mesh, *, batch_size, image_size, grad_accum_steps=1):
    """Compiles a step on streamed images for shapes alone, with the paper's optimiser and augmentation.

    Returns:
      the shapes of the state, and the program.
    """
    optimizer = optimizers.sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=1e-4)

    def make_batch(data, seed, step):
        windows, labels, preprocessing = data
        key = jax.random.fold_in(rng.stream(seed, "augmentation"), step)
        return Batch(augment_images(key, windows, preprocessing, 0.1, True), labels, jnp.ones(labels.shape))

    one_step = partial(train_step, model=network, optimizer=optimizer, mesh=mesh, grad_accum_steps=grad_accum_steps)
    step = compile_steps(one_step, make_batch, mesh)
    state = abstract_state(network, optimizer, (image_size, image_size, 3), mesh)
    sharded, everywhere = batch_sharded(mesh), replicated(mesh)
    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), jnp.uint8, sharding=sharded)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=sharded)
    mean = jax.ShapeDtypeStruct((1, 1, 3), jnp.float32, sharding=everywhere)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=everywhere)
    lowered = step.lower(state, (images, labels, Preprocessing(mean, mean)), seed, 1)
    # The program that XLA makes is the same without LLVM's optimisations, which take half of the time.
    return state, lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def read_step(model, shortcut, batch_size, image_size, bn_group_size, fsdp, grad_accum_steps):
    """Compiles a step for all devices of this process and counts its collectives, by kind and devices that take part.

    Returns:
      "devices", "batch_size", "parameters" and "statistics" (float32 scalars of the network), "sent_bytes" (by each
      device) and "collectives", a list of {"kind", "devices", "count", "largest_bytes", "bytes" (of all of them, see
      `hlo.Collective`), "sent_bytes"}.
    """
    mesh = make_mesh(fsdp=fsdp)
    batch_size = batch_size or IMAGES_ON_A_DEVICE * mesh.size
    check_divides(mesh, batch_size, "batch_size", grad_accum_steps=grad_accum_steps)
    network = models.create(model, shortcut=shortcut, bn_group_size=bn_group_size)
    size = image_size or (224 if network.stem == "imagenet" else 32)
    state, compiled = compile_step(
        network, mesh, batch_size=batch_size, image_size=size, grad_accum_steps=grad_accum_steps
    )
    # Nothing is sent among one device.
    operations = {each: count for each, count in hlo.read_collectives(compiled).items() if each.devices > 1}
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
        "devices": mesh.size,
        "batch_size": batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "statistics": sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats)),
        "sent_bytes": sum(row["sent_bytes"] for row in rows),
        "collectives": rows,
    }


def plan(step, devices):
    """Calls `read_step` where there are so many CPU devices, which a process can choose only once."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, __file__, "--step", json.dumps(step)]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def times(found, step_time):
    """For each of `LINKS` the seconds to send a plan's bytes, None where it does not reach so many devices; and their
    share of a step in which nothing is computed meanwhile, None without `step_time`.
    """
    result = []
    for name, bandwidth, reach in LINKS:
        seconds = found["sent_bytes"] / bandwidth if reach is None or found["devices"] <= reach else None
        share = seconds / (seconds + step_time) if seconds is not None and step_time else None
        result.append({"name": name, "seconds": seconds, "share": share})
    return result


def tables(plans):
    """Writes plans as two tables, the environment first."""
    sent = []
    for each in plans:
        first = (f"{each['devices']:,}", f"{each['batch_size']:,}")
        for row in each["collectives"]:
            sizes = (f"{row[size] / 1e6:,.3f}" for size in ("largest_bytes", "bytes", "sent_bytes"))
            sent.append((*first, row["kind"], f"{row['devices']:,}", f"{row['count']:,}", *sizes))
    milliseconds = [
        (name, f"{bandwidth / 1e9:g}", *(_cell(each["times"][i]) for each in plans))
        for i, (name, bandwidth, _) in enumerate(LINKS)
    ]
    headings = ("devices", "images", "collective", "among", "count", "largest (MB)", "all (MB)", "sent in a ring (MB)")
    devices = (f"{each['devices']:,} devices" for each in plans)
    return "\n".join(
        [
            *environment_lines(plans[-1]["environment"]),
            f"network   {plans[-1]['parameters']:,} parameters and {plans[-1]['statistics']:,} statistics, float32",
            "compiled for CPU devices and not run; times are bytes / published bandwidth, without latency or overlap",
            "",
            table(headings, sent, "a step, each device"),
            "",
            table(("link", "GB/s", *devices), milliseconds, "milliseconds to send it"),
        ]
    )


def _cell(time):
    if time["seconds"] is None:
        return "out of reach"
    share = "" if time["share"] is None else f" ({time['share']:.1%} of the step)"
    return f"{time['seconds'] * 1e3:,.3f}{share}"


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--shortcut")
    for name, default in {
        "batch_size": None,
        "image_size": None,
        "bn_group_size": None,
        "fsdp": 1,
        "grad_accum_steps": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--devices", default="8,64,1024")
    parser.add_argument("--step_time", type=float, default=0.0, help="seconds that a device computes in a step")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", type=json.loads, help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    as_json, step, devices, step_time = (given.pop(name) for name in ("json", "step", "devices", "step_time"))
    if step:
        print(json.dumps(read_step(**step)))
        return
    plans = [plan(given, int(count)) for count in devices.split(",")]
    for each in plans:
        each["times"] = times(each, step_time)
    print(json.dumps(plans, indent=2) if as_json else tables(plans))


if __name__ == "__main__":
    main()
