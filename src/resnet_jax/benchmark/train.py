"""How fast a network trains: the command `resnet-jax benchmark train`."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax import models, rng
from resnet_jax.analysis import summary
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.data.resident import Augmentation, train_batch
from resnet_jax.data.small import Split
from resnet_jax.distributed.machine import describe_environment, environment_lines
from resnet_jax.distributed.mesh import batch_sharded, check_divides, make_mesh, replicated
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.runs.terminal import table
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import compile_steps
from resnet_jax.training.state import create_state
from resnet_jax.training.step import train_step

T = TypeVar("T")

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Variant(NamedTuple):
    """A way to run the same training: `network` makes the module that is trained from the one that was asked for; with
    `scan_steps` a round is one dispatch, instead of one for each step.
    """

    network: Callable[[ResNet], nn.Module]
    scan_steps: bool


VARIANTS = {
    "scanned": Variant(lambda network: network, scan_steps=True),
    "rolled": Variant(lambda network: network, scan_steps=False),
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
      input: "device" makes every batch as training does, from uint8 images on the device, inside the step: shuffle,
        mean, crop, mirror. "synthetic" repeats one float batch; the difference is what the input costs.
      variants: by name, such as some of `VARIANTS`; the others are compared with the first one. By default "scanned".
      steps: updates in a round.
      rounds: timed, after one that is not.

    Returns:
      a JSON-able dict: "environment", "arguments", "multiply_adds" (of one forward pass of one image),
      "peak_bytes_in_use" (of the first device and this process so far, or None), and "variants", one dict each with

        name, steps_per_dispatch, images_per_second (of the median step), loss (the last step's mean over the batch);
        step_time: seconds, and relative_speed: the first variant's time / this one's; a `spread` over the rounds;
        multiply_adds_per_second: three times those of the forward pass, which is usual;
        init_time: seconds to compile and draw the initial state;
        trace_time, compile_time: seconds of `lower` and `compile` of a dispatch (see "compilation_cache");
        first_dispatch_time: seconds of the first one, compiled before;
        program_bytes: what a dispatch holds on one device, arguments and temporaries, or None.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.
    """
    arguments = dict(locals())
    chosen = {"scanned": VARIANTS["scanned"]} if variants is None else variants
    for name, value, choices in (("dtype", dtype, DTYPES), ("input", input, INPUTS)):
        if value not in choices:
            raise InputError(f"{name} is {value!r}, but it must be one of {', '.join(choices)}")
    for name, value in (("batch_size", batch_size), ("steps", steps), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} is {value}, but it must be at least 1")
    try:
        network = models.create(model, shortcut=shortcut, dtype=DTYPES[dtype])
    except ValueError as error:
        raise InputError(str(error)) from error
    if not isinstance(network, models.ResNet):
        raise InputError(f"{model} is a {type(network).__name__}, and only ResNets are measured")
    size = image_size or (224 if network.stem == "imagenet" else 32)
    mesh = make_mesh()
    check_divides(mesh, batch_size, "batch_size")
    cost = summary(network, size)["multiply_adds"]

    prepared = [_prepare(variant, network, mesh, input, batch_size, size, steps) for variant in chosen.values()]
    measured = np.array(in_turn([run for run, _ in prepared], rounds))  # (variants, rounds, 2)
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
                "loss": loss,
            }
        )
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
        "environment": describe_environment(),
        "arguments": {**arguments, "shortcut": network.shortcut, "image_size": size, "variants": list(chosen)},
        "multiply_adds": cost,
        "peak_bytes_in_use": memory.get("peak_bytes_in_use"),
        "variants": results,
    }


def _prepare(
    variant: Variant, network: ResNet, mesh: Mesh, input: str, batch_size: int, image_size: int, steps: int
) -> tuple[Callable[[], tuple[float, float]], dict[str, Any]]:
    """Compiles a variant and runs its first dispatch; returns a function that runs a round, and what is measured once.

    A round gives its seconds and the last loss. Its dispatches queue up, as they do in training.
    """
    model = variant.network(network)
    optimizer = optimizers.sgd(optax.constant_schedule(0.01), momentum=0.9, weight_decay=1e-4)
    image_shape = (image_size, image_size, 3)
    per_dispatch = steps if variant.scan_steps else 1

    def timed(make: Callable[[], T]) -> tuple[T, float]:
        started = time.perf_counter()
        return jax.block_until_ready(make()), time.perf_counter() - started

    state, init_time = timed(lambda: create_state(model, optimizer, 0, image_shape, mesh))
    data, make_batch = INPUTS[input](batch_size, image_shape)
    place = batch_sharded(mesh) if isinstance(data, Batch) else replicated(mesh)
    data = jax.block_until_ready((jax.device_put(data, place), jax.device_put(np.uint32(0), replicated(mesh))))
    train_steps = compile_steps(partial(train_step, model=model, optimizer=optimizer, mesh=mesh), make_batch, mesh)
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
        "program_bytes": _program_bytes(compiled),
    }


def _synthetic(batch_size: int, shape: Sequence[int]) -> tuple[Any, Any]:
    """A batch of noise that is made once, and how it becomes the batch of each step."""
    images = jax.random.normal(rng.stream(0, "images"), (batch_size, *shape))
    return Batch(images, jnp.arange(batch_size) % 10, jnp.ones(batch_size)), lambda data, seed, step: data


def _on_device(batch_size: int, shape: Sequence[int]) -> tuple[Any, Any]:
    """Four batches of noise as uint8 images, and how training makes the batch of a step of them."""
    count = 4 * batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    split = Split(images, np.arange(count, dtype=np.int32) % 10)
    data = split, Preprocessing(per_pixel_mean(images))  # pyright: ignore[reportArgumentType]

    def make_batch(data: Any, seed: jax.Array, step: jax.Array) -> Batch:
        split, preprocessing = data
        return train_batch(split, preprocessing, Augmentation(4, True), seed, step, batch_size)

    return data, make_batch


INPUTS = {"device": _on_device, "synthetic": _synthetic}


def _program_bytes(compiled: Any) -> int | None:
    if (memory := compiled.memory_analysis()) is None:
        return None
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return arguments + memory.temp_size_in_bytes


def heading(result: dict[str, Any]) -> list[str]:
    """The environment and the arguments of a measurement."""
    said = (
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in result["arguments"].items()
    )
    return [*environment_lines(result["environment"]), "arguments " + " ".join(said)]


def as_text(result: dict[str, Any]) -> str:
    """Writes what `train_benchmark` returns: the environment, the arguments, and two tables of the variants."""
    memory = result["peak_bytes_in_use"]
    peak = [] if memory is None else [f"memory    {memory / 2**20:,.1f} MiB at the peak, first device"]
    speed, once = [], []
    for row in result["variants"]:
        name, step = row["name"], written({key: 1e3 * value for key, value in row["step_time"].items()}, 2)
        images, arithmetic = f"{row['images_per_second']:,.1f}", f"{row['multiply_adds_per_second'] / 1e9:,.1f}"
        speed.append((name, images, step, arithmetic, written(row["relative_speed"], 2)))
        times = (f"{row[f'{part}_time']:.2f}" for part in ("init", "trace", "compile", "first_dispatch"))
        program = "" if row["program_bytes"] is None else f"{row['program_bytes'] / 2**20:,.1f}"
        once.append((name, *times, program))
    first = ("variant", "images/s", "step (ms)", "multiply-adds/s (G)", "relative speed")
    second = ("variant", "init (s)", "trace (s)", "compile (s)", "first dispatch (s)", "program (MiB)")
    return "\n".join([*heading(result), *peak, "", table(first, speed), "", table(second, once)])


def in_turn(runs: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """Calls each of `runs` so many times, A B C A B C …, so that a drift of the machine's speed meets all alike.

    Returns for each of them what its rounds returned, but for one that is run before.
    """
    turns = [[run() for run in runs] for _ in range(rounds + 1)]
    return [list(each) for each in zip(*turns[1:], strict=True)]


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    """{"median", "q1", "q3", "n"}, or None where a value is unknown (NaN)."""
    if np.isnan(values).any():
        return None
    q1, median, q3 = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "q1": q1, "q3": q3, "n": len(values)}


def written(values: dict[str, float] | None, digits: int) -> str:
    """A `spread` as text, "20 (15–25)"."""
    return "?" if values is None else "{median:,.{n}f} ({q1:,.{n}f}–{q3:,.{n}f})".format(**{**values, "n": digits})
