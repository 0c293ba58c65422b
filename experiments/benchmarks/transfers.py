"""How fast bytes move: between the host and a device, and between all devices of a run's processes.

    python experiments/benchmarks/transfers.py [--bytes=N] [--values=N] [--rounds=N]
                                               [--distributed=… --num_processes=N --process_id=I, as for train]

Process 0 prints a JSON document.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax.distributed import agreement, launch
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.distributed.mesh import batch_sharded, make_mesh, replicated

# A ResNet-50 has so many parameters, and its gradient as many float32 values.
GRADIENT = 25_557_032


def measure_transfers(device: Any, count: int, rounds: int) -> dict[str, float]:
    """Moves uint8 values to a device of this process and back.

    Args:
      device: one of `jax.local_devices()`.
      count: bytes.
      rounds: timed, after one that is not.

    Returns:
      "host_to_device" and "device_to_host", bytes per second of the median round.
    """
    values = np.arange(count, dtype=np.uint8)
    # On a CPU an array on the device is memory of the host, which `asarray` would only look at.
    read = np.array if device.platform == "cpu" else np.asarray
    there, back = [], []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        # A new array in each round: one that was read keeps its copy on the host.
        array = jax.device_put(values, device, may_alias=False).block_until_ready()
        arrived = time.perf_counter()
        read(array)
        there.append(arrived - started)
        back.append(time.perf_counter() - arrived)
    return {
        "host_to_device": count / statistics.median(there[1:]),
        "device_to_host": count / statistics.median(back[1:]),
    }


def compile_all_reduce(mesh: Mesh, count: int) -> Callable[[jax.Array], jax.Array]:
    """Compiles the sum of one array of `count` float32 values from each device: (devices, count) -> (count,)."""
    parts = jax.ShapeDtypeStruct((mesh.size, count), jnp.float32, sharding=batch_sharded(mesh))
    add = jax.jit(lambda parts: parts.sum(0), out_shardings=replicated(mesh))
    return add.lower(parts).compile()


def measure_all_reduce(count: int, rounds: int) -> dict[str, Any]:
    """Sums an array of `count` float32 values from each device of all processes, which call this together.

    Args:
      count: of the values.
      rounds: timed, after one that is not.

    Returns:
      "bytes" of one array; "seconds" of the median round, with its dispatch; "algorithm_bandwidth", bytes / seconds;
      "bus_bandwidth", that times 2(n-1)/n, which is what a ring sends from each of n devices, so that figures of
      different n can be compared; and "right": whether every device of this process holds the true sum.
    """
    mesh = make_mesh()
    devices = mesh.size
    add = compile_all_reduce(mesh, count)

    def make_parts():
        # Small whole numbers, whose sum is exact in float32.
        return jnp.broadcast_to(1.0 + jnp.arange(devices, dtype=jnp.float32)[:, None] % 7, (devices, count))

    parts = jax.jit(make_parts, out_shardings=batch_sharded(mesh))()
    times, total = [], None
    for _ in range(rounds + 1):
        total = None  # its memory is free for the next one
        jax.block_until_ready(parts)
        started = time.perf_counter()
        total = add(parts).block_until_ready()
        times.append(time.perf_counter() - started)
    # Each device looks at its own copy.
    extremes = jax.jit(lambda total: jnp.stack([total.min(), total.max()]), out_shardings=replicated(mesh))
    expected = float(np.sum(1 + np.arange(devices) % 7))
    right = all(np.all(np.asarray(shard.data) == expected) for shard in extremes(total).addressable_shards)
    seconds, size = statistics.median(times[1:]), 4 * count
    return {
        "bytes": size,
        "seconds": seconds,
        "algorithm_bandwidth": size / seconds,
        "bus_bandwidth": size / seconds * 2 * (devices - 1) / devices,
        "right": right,
    }


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2**26)
    parser.add_argument("--values", type=int, default=GRADIENT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--distributed")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    given = parser.parse_args()
    with launch.processes(given.distributed, given.num_processes, given.process_id):
        own = [measure_transfers(device, given.bytes, given.rounds) for device in jax.local_devices()]
        result = {
            "environment": describe_environment(),
            "transfers": agreement.exchange(own),
            "all_reduces": agreement.exchange(measure_all_reduce(given.values, given.rounds)),
        }
        if agreement.is_lead():
            print(json.dumps(result, indent=2), flush=True)


if __name__ == "__main__":
    main()
