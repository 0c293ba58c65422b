"""How fast a network trains: the command `resnet-jax benchmark train`."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax import models, rng, sharding, terminal
from resnet_jax.analysis import complexity
from resnet_jax.benchmark.linen import linen_twin
from resnet_jax.data.pipeline import Augmentation, Batch, DeviceSplit
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.environment import describe_environment, environment_lines
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.training import schedules
from resnet_jax.training.state import create_state
from resnet_jax.training.step import compile_train_steps, train_step

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
INPUTS = ("synthetic", "device")


class Variant(NamedTuple):
    """A way to run the same training.

    Attributes:
      unroll: every block is written out, instead of a scan over equal ones.
      scan_steps: a round is one dispatch, instead of one dispatch for each step.
      linen: the network in plain Linen, see `linen_twin`.
    """

    unroll: bool
    scan_steps: bool
    linen: bool = False


VARIANTS = {
    "scanned": Variant(unroll=False, scan_steps=True),
    "rolled": Variant(unroll=False, scan_steps=False),
    "unrolled": Variant(unroll=True, scan_steps=False),
    "unrolled_scanned": Variant(unroll=True, scan_steps=True),
    "linen": Variant(unroll=True, scan_steps=False, linen=True),
}


def train_benchmark(
    model: str = "cifar_resnet20",
    *,
    shortcut: str | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    input: str = "device",
    variants: Sequence[str] = ("scanned",),
    steps: int = 10,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures training on all devices, data-parallel. With several variants, their rounds alternate (A B C A B C …),
    so that a drift of the machine's speed meets all alike.

    Args:
      model, shortcut: of `models.create`.
      batch_size: images in a step, over all devices.
      image_size: height and width in pixels, by default 224, or 32 for CIFAR.
      dtype: of the computation, "float32" or "bfloat16".
      input: "device" makes every batch as training does, from uint8 images on the device, inside the step: shuffle,
        mean, crop, mirror. "synthetic" repeats one float batch; the difference is what the input costs.
      variants: names of `VARIANTS`; the first one is what the others are compared with.
      steps: updates in a round.
      rounds: timed, after one that is not.

    Returns:
      a JSON-able dict: "environment", "arguments", "multiply_adds" (of one forward pass of one image),
      "peak_bytes_in_use" (of the first device and this process so far; None where the device does not say), and
      "variants", one dict each with
        name, steps_per_dispatch;
        step_time: seconds, {"median", "min", "max", "n"} over the rounds;
        images_per_second: of the median step;
        multiply_adds_per_second: three times those of the forward pass, which is usual;
        init_time: seconds to compile and draw the initial state;
        trace_time, compile_time: seconds of `lower` and `compile` of a dispatch (see "compilation_cache");
        first_dispatch_time: seconds of the first one, compiled before;
        program_bytes: what a dispatch holds on one device, arguments and temporaries, or None;
        relative_speed: the first variant's time / this one's, {"median", "min", "max", "n"} over the rounds;
        loss: of the last step, the mean over the batch.

    Raises:
      InputError: an argument that cannot be, or a batch that the devices cannot share equally.
    """
    arguments = dict(locals())
    _check(dtype, input, variants, batch_size, steps, rounds)
    try:
        network = models.create(model, shortcut=shortcut, dtype=DTYPES[dtype])
    except ValueError as error:
        raise InputError(str(error)) from error
    size = image_size or (224 if network.stem == "imagenet" else 32)
    mesh = sharding.make_mesh()
    sharding.check_divides(mesh, batch_size, "batch_size")
    cost = complexity.summary(network, size)["multiply_adds"]

    runs = [_prepare(name, network, mesh, input, batch_size, size, steps) for name in variants]
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, measured in zip(runs, times, strict=True):
            seconds = run.round()
            if turn > 0:
                measured.append(seconds / steps)
    memory = jax.local_devices()[0].memory_stats() or {}
    results = []
    for run, measured in zip(runs, times, strict=True):
        images_per_second = batch_size / statistics.median(measured)
        results.append(
            {
                **run.once,
                "step_time": _spread(measured),
                "images_per_second": images_per_second,
                "multiply_adds_per_second": 3 * cost * images_per_second,
                "relative_speed": _spread([first / own for first, own in zip(times[0], measured, strict=True)]),
                "loss": run.loss,
            }
        )
    return {
        "environment": describe_environment(),
        "arguments": {**arguments, "shortcut": network.shortcut, "image_size": size, "variants": list(variants)},
        "multiply_adds": cost,
        "peak_bytes_in_use": memory.get("peak_bytes_in_use"),
        "variants": results,
    }


def _check(dtype: str, input: str, variants: Sequence[str], batch_size: int, steps: int, rounds: int) -> None:
    given = [("dtype", dtype, DTYPES), ("input", input, INPUTS), *(("variants", name, VARIANTS) for name in variants)]
    for argument, value, choices in given:
        if value not in choices:
            raise InputError(f"{argument} is {value!r}, but it must be one of {', '.join(choices)}")
    if not variants:
        raise InputError(f"variants is empty: name at least one of {', '.join(VARIANTS)}")
    for argument, value in (("batch_size", batch_size), ("steps", steps), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{argument} is {value}, but it must be at least 1")


@dataclass
class _Run:
    """A compiled variant with its state; `once` holds what is measured once."""

    dispatch: Callable[[Any], tuple[Any, jax.Array]]
    dispatches: int
    state: Any
    once: dict[str, Any]
    loss: float = float("nan")

    def round(self) -> float:
        """Runs a round and returns its seconds. The dispatches queue up, as they do in training."""
        started = time.perf_counter()
        losses = None
        for _ in range(self.dispatches):
            self.state, losses = self.dispatch(self.state)
        self.state, losses = jax.block_until_ready((self.state, losses))
        seconds = time.perf_counter() - started
        self.loss = float(losses[-1])
        return seconds


def _prepare(name: str, network: ResNet, mesh: Mesh, input: str, batch_size: int, image_size: int, steps: int) -> _Run:
    """Compiles a variant and runs its first dispatch."""
    variant = VARIANTS[name]
    model = linen_twin(network) if variant.linen else network.clone(unroll=variant.unroll)
    optimizer = schedules.sgd(optax.constant_schedule(0.01), momentum=0.9, weight_decay=1e-4)
    image_shape = (image_size, image_size, 3)
    per_dispatch = steps if variant.scan_steps else 1

    started = time.perf_counter()
    state = jax.block_until_ready(create_state(model, optimizer, 0, image_shape, mesh))
    initialised = time.perf_counter()
    prepare = {"synthetic": _synthetic, "device": _on_device}[input]
    train_steps, data = prepare(model, optimizer, mesh, batch_size, image_shape)
    jax.block_until_ready(data)
    ready = time.perf_counter()
    lowered = train_steps.lower(state, *data, per_dispatch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()

    def dispatch(state):
        state, metrics, *_ = compiled(state, *data)
        return state, metrics.loss / metrics.count

    run = _Run(dispatch, 1, state, {})
    first = run.round()
    run.dispatches = steps // per_dispatch
    run.once = {
        "name": name,
        "steps_per_dispatch": per_dispatch,
        "init_time": initialised - started,
        "trace_time": traced - ready,
        "compile_time": done - traced,
        "first_dispatch_time": first,
        "program_bytes": _program_bytes(compiled),
    }
    return run


def _synthetic(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    batch_size: int,
    image_shape: tuple[int, int, int],
) -> tuple[Any, tuple[Batch]]:
    """A function `(state, batch, steps) -> (state, metrics)`, and one batch of noise."""

    @partial(jax.jit, out_shardings=sharding.batch_sharded(mesh))
    def make_batch():
        images = jax.random.normal(rng.stream(0, "images"), (batch_size, *image_shape))
        return Batch(images, jnp.arange(batch_size) % 10, jnp.ones(batch_size))

    @partial(jax.jit, static_argnums=2, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def train_steps(state, batch, steps):
        def step(state, _):
            return train_step(state, batch, model=model, optimizer=optimizer, mesh=mesh)

        # A single step is no loop: XLA:CPU is slow at the convolution gradients of plain Linen in any loop.
        return jax.lax.scan(step, state, None, length=steps, unroll=2 if steps == 1 else 1)

    return train_steps, (make_batch(),)


def _on_device(
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    batch_size: int,
    image_shape: tuple[int, int, int],
) -> tuple[Any, tuple[DeviceSplit, Preprocessing, jax.Array]]:
    """The real training step, and four batches of noise as uint8 images."""
    count = 4 * batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, *image_shape), np.uint8)
    split = DeviceSplit(images, np.arange(count, dtype=np.int32) % 10)  # pyright: ignore[reportArgumentType]
    preprocessing = Preprocessing(per_pixel_mean(images))  # pyright: ignore[reportArgumentType]
    train_steps = compile_train_steps(model, optimizer, mesh, batch_size=batch_size, augmentation=Augmentation(4, True))
    return train_steps, jax.device_put((split, preprocessing, np.uint32(0)), sharding.replicated(mesh))


def _program_bytes(compiled: Any) -> int | None:
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return arguments + memory.temp_size_in_bytes


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def render(result: dict[str, Any]) -> str:
    """Writes the dict of `train_benchmark` as tables, the environment first."""
    environment, arguments = result["environment"], result["arguments"]
    heading = [
        *environment_lines(environment),
        "arguments " + " ".join(f"{name}={_plain(value)}" for name, value in arguments.items()),
        f"cache     compilation cache {environment['compilation_cache'] or 'off'}",
    ]
    if environment["fake_devices"]:
        heading.append(
            "fake devices: one CPU poses as several, which share its cores; these figures say nothing about scaling"
        )
    if result["peak_bytes_in_use"] is not None:
        heading.append(f"memory    {_mebibytes(result['peak_bytes_in_use'])} MiB at the peak, first device")

    speed, once = [], []
    for row in result["variants"]:
        step, relative = row["step_time"], row["relative_speed"]
        speed.append(
            (
                row["name"],
                f"{row['images_per_second']:,.1f}",
                *(f"{step[key] * 1e3:,.2f}" for key in ("median", "min", "max")),
                str(step["n"]),
                f"{row['multiply_adds_per_second'] / 1e9:,.1f}",
                f"{relative['median']:.2f} ({relative['min']:.2f} – {relative['max']:.2f})",
            )
        )
        times = (row[f"{part}_time"] for part in ("init", "trace", "compile", "first_dispatch"))
        program = "" if row["program_bytes"] is None else _mebibytes(row["program_bytes"])
        once.append((row["name"], *(f"{time:.2f}" for time in times), str(row["steps_per_dispatch"]), program))
    speeds = ("variant", "images/s", "step (ms)", "min", "max", "rounds", "multiply-adds/s (G)", "relative speed")
    costs = ("variant", "init (s)", "trace (s)", "compile (s)", "first dispatch (s)", "steps in it", "program (MiB)")
    tables = terminal.table(speeds, speed, "speed"), terminal.table(costs, once, "once")
    return "\n".join([*heading, "", tables[0], "", tables[1]])


def _plain(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f}"
