"""How long the training step takes to compile: the command `resnet-jax benchmark compile`."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from resnet_jax.benchmark.measuring import check_several, heading, in_turn, network_of, spread, timed, written
from resnet_jax.benchmark.steps import lower_step
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.distributed.mesh import check_divides, make_mesh
from resnet_jax.errors import InputError, check_whole
from resnet_jax.runs.terminal import table


def compile_benchmark(
    models: Sequence[str] = ("cifar_resnet20", "cifar_resnet110", "cifar_resnet1202"),
    *,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    rounds: int = 3,
) -> dict[str, Any]:
    """Traces and compiles the training step of several networks, without a compilation cache and from one; none runs.

    The cache is a temporary folder. JAX is set afterwards as it was before. What JAX remembers of its own functions
    is not forgotten between rounds, so that the first tracing in a process takes longer.

    Args:
      models: names of `models.create`; the others are compared with the first one.
      batch_size: images in a step, over all devices.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.
      dtype: of the computation, "float32" or "bfloat16".
      rounds: timed, after one that is not and that fills the cache; the models take turns.

    Returns:
      a JSON-able dict: "environment", "arguments", "imports", seconds in processes of their own of "import resnet_jax",
      which loads nothing yet, and of "import resnet_jax; resnet_jax.create", which loads JAX and Flax; and "models",
      one dict each with

        name, image_size; trace_time, compile_time: seconds of `lower` and of `compile` without a cache; cached_time: of
        `compile` where the program is read from the cache; relative_time: trace_time and compile_time / those of the
        first model; {"median", "q1", "q3", "n"} over the rounds, as imports are;
        traced_lines: of the program that is traced, as StableHLO; cached_bytes: of the compiled one, as the cache
        keeps it, compressed, or 0 where it keeps none.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.

    >>> compile_benchmark([])
    Traceback (most recent call last):
    resnet_jax.errors.InputError: models is [], but it must be a list, such as ('cifar_resnet20', 'cifar_resnet110')
    """
    check_several("('cifar_resnet20', 'cifar_resnet110')", models=models)
    arguments = {**locals(), "models": list(models)}
    check_whole(batch_size=batch_size, rounds=rounds)
    if len(set(models)) < len(models):
        raise InputError(f"models is {list(models)}, but each name must stand there once")
    mesh = make_mesh()
    check_divides(mesh, batch_size, "batch_size")
    networks = [network_of(name, None, dtype, image_size) for name in models]
    rows, imports = [], import_times(rounds)
    with tempfile.TemporaryDirectory() as folder:
        runs, traced = [], []
        for name, (network, costs) in zip(models, networks, strict=True):
            lower = partial(lower_step, network, mesh, batch_size, costs["image_size"])
            runs.append(partial(_compile_twice, lower, Path(folder, name)))
            traced.append(len(lower()[1].as_text().splitlines()))
        measured = np.array(in_turn(runs, rounds))  # (models, rounds, 3)
        for name, (_, costs), own, lines in zip(models, networks, measured, traced, strict=True):
            trace_time, compile_time, cached_time = (spread(column) for column in own.T)
            rows.append(
                {
                    "name": name,
                    "image_size": costs["image_size"],
                    "trace_time": trace_time,
                    "compile_time": compile_time,
                    "cached_time": cached_time,
                    "relative_time": spread(own[:, :2].sum(1) / measured[0, :, :2].sum(1)),
                    "traced_lines": lines,
                    "cached_bytes": sum(file.stat().st_size for file in Path(folder, name).glob("*-cache")),
                }
            )
    return {
        "environment": describe_environment(),
        "arguments": arguments,
        "imports": imports,
        "models": rows,
    }


def _compile_twice(lower: Any, folder: Path) -> tuple[float, float, float]:
    """Seconds to trace a step, to compile it, and to compile it again with a cache in a folder."""
    with _cached_in(None):
        (_, lowered), trace_time = timed(lower)
        _, compile_time = timed(lowered.compile)
    with _cached_in(folder):
        # Traced anew: what is lowered keeps its program.
        _, lowered = lower()
        return trace_time, compile_time, timed(lowered.compile)[1]


@contextlib.contextmanager
def _cached_in(folder: Path | None) -> Iterator[None]:
    """Programs of any size are kept in a folder, or None are; JAX is set afterwards as it was before."""
    settings: dict[str, Any] = {
        "jax_enable_compilation_cache": folder is not None,
        "jax_compilation_cache_dir": folder and str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    with contextlib.ExitStack() as stack:
        # JAX looks at the settings once, until it forgets its cache.
        stack.callback(compilation_cache.reset_cache)
        for name, value in settings.items():
            stack.callback(jax.config.update, name, getattr(jax.config, name))
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield


def import_times(rounds: int) -> dict[str, Any]:
    """Seconds to import this package, and to use a name of it, in processes of their own; see `compile_benchmark`."""

    def seconds(imports: str) -> float:
        program = f"import time; start = time.perf_counter(); {imports}; print(time.perf_counter() - start)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(
                f"{sys.executable} cannot {imports}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
            )
        return float(done.stdout)

    programs = ("import resnet_jax", "import resnet_jax; resnet_jax.create")
    found = in_turn([partial(seconds, program) for program in programs], rounds)
    return dict(zip(programs, map(spread, found), strict=True))


def as_text(result: dict[str, Any]) -> str:
    """Writes what `compile_benchmark` returns: the environment, the arguments and two tables."""
    rows = [
        (
            row["name"],
            *(written(row[f"{part}_time"], 2) for part in ("trace", "compile", "cached", "relative")),
            f"{row['traced_lines']:,}",
            f"{row['cached_bytes'] / 2**20:,.2f}",
        )
        for row in result["models"]
    ]
    headings = ("model", "trace (s)", "compile (s)", "from the cache (s)", "relative", "lines", "in the cache (MiB)")
    imports = [(program, written(spent, 3)) for program, spent in result["imports"].items()]
    return "\n".join([*heading(result), "", table(headings, rows), "", table(("process", "seconds"), imports)])
