"""What a GPU's compiler makes of a training step, on a machine without one: its kernels, and what they read and write.

    python experiments/gpu/program.py [--model=resnet50] [--batch_size=256] [--bn_group_size=32] [--dtype=bfloat16]
        [--unroll=true|false] [--largest=10] [--format=table|json] [--text=FILE]

It needs `pip install "jax[cuda13]"`, 4 GB, and takes half a minute for ResNet-50 on two cores. Nothing runs: no kernel
is timed, and cuDNN's algorithms are guessed. But most of a network's time goes into moving bytes, which are counted. On
an H200 a step of ResNet-50 took 54.6, 46.4, 46.3, 38.6 and 35.9 ms in five forms that move 146, 122, 122, 99 and 93 GB
(2026-11-29). --text keeps the whole program.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import hlo
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from resnet_jax.benchmark.measuring import network_of
from resnet_jax.benchmark.steps import lower_step
from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.cli.main import exit_status
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.runs.terminal import table

# An H200, as XLA describes GPUs that are not there (`stream_executor.GpuTargetConfigProto`).
H200 = """
gpu_device_info {
  name: "NVIDIA H200" cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  memory_bandwidth: 4800000000000 device_memory_size: 151397597184
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  runtime_version: "13.0.0" driver_version: "13.0.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""


def gpu_mesh() -> Mesh:
    """A mesh of one GPU that is not there; an InputError where JAX has no compiler for GPUs."""
    try:
        there = topologies.get_topology_desc("", "cuda", target_config=H200, topology="1x1x1")
    except Exception as error:
        raise InputError(
            f'JAX has no compiler for GPUs here, which `pip install "jax[cuda13]=={jax.__version__}"` brings: {error}'
        ) from error
    mine = make_mesh(1)
    return Mesh(np.array(there.devices).reshape(mine.devices.shape), mine.axis_names, axis_types=mine.axis_types)


@command
def program(
    *,
    model: str = "resnet50",
    batch_size: int = 256,
    bn_group_size: int | None = 32,
    dtype: str = "bfloat16",
    unroll: bool | None = None,
    largest: int = 10,
    format: Format = "table",
    text: Path | None = None,
) -> None:
    """The command; as JSON: "arguments", "kinds" (the kernels and bytes of each), and "largest"."""
    arguments = {name: value for name, value in locals().items() if name not in ("format", "text")}
    mesh = gpu_mesh()
    # What the network asks to know what it is traced for.
    jax.default_backend = lambda: "gpu"
    network, costs = network_of(model, None, dtype, None)
    network = network.clone(bn_group_size=bn_group_size, unroll=unroll)
    compiled: Any = lower_step(network, mesh, batch_size, costs["image_size"])[1].compile()
    if text:
        text.write_text(compiled.as_text())
    kernels = hlo.kernels_of_text(compiled.as_text())
    count, moved = Counter(), Counter()
    for each in kernels:
        count[each.kind] += each.turns
        moved[each.kind] += each.turns * each.bytes
    most = sorted(kernels, key=lambda each: -each.turns * each.bytes)[:largest]
    result = {
        "arguments": arguments,
        "kinds": {kind: {"kernels": count[kind], "bytes": size} for kind, size in moved.most_common()},
        "largest": [each._asdict() for each in most],
    }
    rows = [("all", f"{sum(count.values()):,}", f"{sum(moved.values()) / 1e9:.2f}")]
    rows += [(kind, f"{count[kind]:,}", f"{size / 1e9:.2f}") for kind, size in moved.most_common()]
    large = [(each.name, str(each.turns), f"{each.bytes / 1e9:.2f}", each.made_of[-60:]) for each in most]
    show(
        format,
        result,
        lambda: "\n\n".join(
            [table(("kind", "kernels", "GB"), rows), table(("largest", "times", "GB each", "ends with"), large)]
        ),
    )


if __name__ == "__main__":
    raise SystemExit(exit_status(lambda: program(sys.argv[1:])))
