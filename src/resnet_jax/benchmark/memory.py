"""What a training step keeps in memory: the command `resnet-jax benchmark memory`."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.benchmark.measuring import check_several, heading, network_of, peak_bytes
from resnet_jax.benchmark.steps import lower_step, program_bytes
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.distributed.mesh import check_divides, make_mesh
from resnet_jax.errors import InputError, check_whole
from resnet_jax.runs.terminal import table


def memory_benchmark(
    model: str = "cifar_resnet20",
    *,
    shortcut: str | None = None,
    batch_sizes: Sequence[int] = (8, 16, 32),
    image_size: int | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Compiles the training step for several batch sizes and asks the compiler what each holds; nothing is run.

    Args:
      model, shortcut: of `models.create`.
      batch_sizes: images in a step, over all devices: at least two different ones.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.
      dtype: of the computation, "float32" or "bfloat16".

    Returns:
      a JSON-able dict: "environment", "arguments", and of one device, in bytes,

        parameter_bytes, optimizer_bytes: of the float32 parameters, and of what the optimiser keeps;
        activation_bytes: what must be kept of one image between the passes, see `analysis.layer_costs`;
        bytes_per_image: the slope of the line through the programs; the float images of a batch belong to it;
        peak_bytes_in_use: the first device's, in this process so far, or None where it does not tell;
        programs: a dict for each batch size: "batch_size", "argument_bytes", "temporary_bytes" and "program_bytes",
        which is both and results that are no arguments.

      What the compiler does not tell is None.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.

    >>> found = memory_benchmark("cifar_resnet8", image_size=8, batch_sizes=(8, 16))
    >>> found["parameter_bytes"], found["activation_bytes"]
    (301160, 37120)
    """
    arguments = dict(locals())
    check_several("(8, 16)", batch_sizes=batch_sizes)
    for size in batch_sizes:
        check_whole(batch_sizes=size)
    if len(set(batch_sizes)) < 2:
        raise InputError(f"batch_sizes is {list(batch_sizes)}, but a line needs two sizes: give several, such as 8,16")
    network, costs = network_of(model, shortcut, dtype, image_size)
    mesh = make_mesh()
    for size in batch_sizes:
        check_divides(mesh, size, "batch_sizes")
    programs: list[dict[str, Any]] = []
    state: Any = None
    for size in batch_sizes:
        state, lowered = lower_step(network, mesh, size, costs["image_size"])
        compiled = lowered.compile()
        memory = compiled.memory_analysis()
        programs.append(
            {
                "batch_size": size,
                "argument_bytes": memory and memory.argument_size_in_bytes,
                "temporary_bytes": memory and memory.temp_size_in_bytes,
                "program_bytes": program_bytes(compiled),
            }
        )
    held = [each["program_bytes"] for each in programs]
    per_image = None if None in held else float(np.polyfit(np.array(batch_sizes) / mesh.size, held, 1)[0])

    def size_of(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    return {
        "environment": describe_environment(),
        "arguments": {
            **arguments,
            "shortcut": network.shortcut,
            "batch_sizes": list(batch_sizes),
            "image_size": costs["image_size"],
        },
        "parameter_bytes": size_of(state.params),
        "optimizer_bytes": size_of(state.opt_state),
        "activation_bytes": costs["activation_bytes"],
        "bytes_per_image": per_image,
        "peak_bytes_in_use": peak_bytes(),
        "programs": programs,
    }


def as_text(result: dict[str, Any]) -> str:
    """Writes what `memory_benchmark` returns: the environment, the arguments and two tables, in MiB."""

    def mebi(value: float | None) -> str:
        return "?" if value is None else f"{value / 2**20:,.2f}"

    names = ("parameter_bytes", "optimizer_bytes", "activation_bytes", "bytes_per_image", "peak_bytes_in_use")
    own = ("parameters", "optimizer", "activations/image, at least", "step/image", "peak so far")
    fields = ("argument_bytes", "temporary_bytes", "program_bytes")
    rows = [(str(each["batch_size"]), *(mebi(each[field]) for field in fields)) for each in result["programs"]]
    return "\n".join(
        [
            *heading(result),
            "sizes     in MiB, of one device",
            "",
            table(own, [[mebi(result[name]) for name in names]], text_columns=0),
            "",
            table(("batch", "arguments", "temporaries", "all"), rows, text_columns=0),
        ]
    )
