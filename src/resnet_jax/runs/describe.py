"""What a run tells people: what it is, what a step costs, how far it has come, and how long it will take."""

import contextlib
import datetime
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from resnet_jax.analysis import layer_costs
from resnet_jax.configs.base import Config
from resnet_jax.distributed.agreement import is_lead
from resnet_jax.distributed.machine import describe_host
from resnet_jax.errors import optional
from resnet_jax.models import ResNet
from resnet_jax.models.resnet import part_of
from resnet_jax.runs import build, workdir
from resnet_jax.runs.inputs import Input
from resnet_jax.runs.metrics_log import read_metrics
from resnet_jax.runs.terminal import Console, Update, shows_bars

# Seconds between two lines of a log, of which a run of hours writes some thousands.
_PAUSE = 5.0


def name(config: Config) -> str:
    """Of the network."""
    return f"{config.model.family}{config.model.depth}"


def run(config: Config, images: Input, params: Any, directory: Path, step: int | None) -> list[str]:
    """What is about to be trained, on what, and for how long: a few lines; `step` is None where it begins."""
    devices, host = build.mesh(config).devices.ravel(), describe_host()
    device = ", ".join(f"{count} × {kind}" for kind, count in Counter(each.device_kind for each in devices).items())
    if jax.default_backend() == "cpu":
        device = f"no GPU found: training on {host['cores']} CPU cores"
        device += f", which pose as {devices.size} devices" if devices.size > jax.process_count() else ""
    counts = ", ".join(f"{count:,} {split}" for split, count in _sizes(images).items())
    fields, size = config.train, config.train.batch_size
    epochs = fields.epochs or fields.iterations * size / images.train_images
    lines = {
        "device": device,
        "network": f"{name(config)}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters",
        "data": f"{config.dataset.name}: {counts} images, {len(images.metadata.class_names):,} classes",
        "training": f"{epochs:,.4g} epochs, {fields.iterations:,} iterations of {size:,} images",
        "workdir": f"{directory}, " + ("new" if step is None else f"going on from the checkpoint of iteration {step}"),
    }
    if fields.keep_best:
        same = ", the same images as those of the result" if images.test_split == "validation" else ""
        lines["keeps"] = f"the checkpoint with the least validation error too{same}"
    return [f"{title:8}  {text}" for title, text in lines.items()]


def _sizes(images: Input) -> Mapping[str, int]:
    # An input of one's own may know no more than this.
    return getattr(images, "split_sizes", {"training": images.train_images})


def program(config: Config, model: Any, image_shape: tuple[int, ...], compiled: Any) -> str:
    """What a step costs, and what the compiled program holds in the memory of each device."""
    (height, width, channels), devices, cost = image_shape, build.mesh(config).size, "a step"
    if isinstance(model, ResNet) and height == width:
        layers = layer_costs(model, height, channels)
        # Stages by the names of table 1, in the order of the network's parts. The frozen ones have no backward pass.
        trained = list(dict.fromkeys(layer.stage for layer in layers))[len({*map(part_of, model.frozen)}) :]
        passes = sum(layer.multiply_adds * (3 if layer.stage in trained else 1) for layer in layers)
        work = passes * (config.train.batch_size // devices) / 1e9
        each = f" on each of {devices} devices" if devices > 1 else ""
        cost += f" is {work:,.3g} billion multiply-adds{each},"
    memory = compiled.memory_analysis()
    if memory is None:
        return cost.rstrip(",")
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (
        f"{cost} in {(held + memory.temp_size_in_bytes) / 2**20:,.1f} MiB of memory: {held / 2**20:,.1f} MiB of state "
        f"and data, {memory.temp_size_in_bytes / 2**20:,.1f} MiB to work in"
    )


def progress(step: int, total: int, line: Mapping[str, float], left: float) -> str:
    """A line of metrics.jsonl as people read it; `left` is how many seconds the run will take."""
    told = [f"{key.replace('_', ' ')} {line[key]:.2%}" for key in line if key.endswith("_error")]
    told += [f"loss {line['train_loss']:.4f}"] if "train_loss" in line else []
    told += [f"learning rate {line['learning_rate']:.3g}"] if "learning_rate" in line else []
    told += [f"{line['images_per_second']:,.0f} images/s"]
    told += [f"{datetime.timedelta(seconds=round(left))} left"] if step < total else []
    return f"iteration {step}/{total}: {', '.join(told)}"


def seconds_left(step: int, total: int, every: int, per_step: float, per_evaluation: float) -> float:
    """How long a run will take from a step on, whose evaluations are made after `every` steps and after the last one.

    Example:
      >>> seconds_left(step=100, total=1000, every=300, per_step=0.5, per_evaluation=10)
      490.0
    """
    evaluations = total // every - step // every + (total % every > 0) if step < total else 0
    return float((total - step) * per_step + evaluations * per_evaluation)


class Reporter:
    """Tells how a run gets on: with a bar where there is a terminal, and else by a line now and then.

    Args:
      console: prints the lines.
      update: of the bar.
      config: of the run.
      images: tell how long an evaluation may take until one has been made.
      clock: seconds; the lines keep a distance by it.
    """

    def __init__(
        self,
        console: Console,
        update: Update,
        config: Config,
        images: Input,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console, self._update, self._fields, self._clock = console, update, config.train, clock
        self._guess = _sizes(images).get(images.eval_split, 0) / (3 * config.train.batch_size)
        self._steps, self._seconds = 0, 0.0
        self._evaluation: float | None = None
        self._told: float | None = None
        self._note = ""

    @contextlib.contextmanager
    def doing(self, what: str, step: int | None = None) -> Iterator[None]:
        """While a bar says "compiling", "evaluating" or "saving"; a log says the first, which can take long."""
        started = self._clock()
        self._update(step, what)
        if what == "compiling" and not shows_bars(self._console):
            self._console.print("compiling the training step")
        yield
        self._update(note=self._note)
        if what == "evaluating":
            # The first one compiles too.
            seconds = self._clock() - started
            self._evaluation = seconds if self._evaluation is None else min(self._evaluation, seconds)

    def trained(self, steps: int, seconds: float) -> None:
        """Notes how long steps took, without the evaluation after them."""
        self._steps, self._seconds = self._steps + steps, self._seconds + seconds

    def left(self, step: int) -> float:
        """Seconds."""
        per_step = self._seconds / self._steps
        # A step has a backward pass of twice the work.
        per_evaluation = self._guess * per_step if self._evaluation is None else self._evaluation
        return seconds_left(step, self._fields.iterations, self._fields.eval_every, per_step, per_evaluation)

    def tell(self, step: int, line: Mapping[str, float], evaluated: bool) -> None:
        """Shows a line of metrics.jsonl: the first one, the last one, those of evaluations, and some others."""
        left, total, now = self.left(step), self._fields.iterations, self._clock()
        due = self._told is None or now - self._told >= _PAUSE
        if evaluated or step == total or (due and not shows_bars(self._console)):
            self._console.print(progress(step, total, line, left))
            self._told = now
        loss = f"loss {line['train_loss']:.3f}, " if "train_loss" in line else ""
        self._note = f"{loss}{line['images_per_second']:,.0f} images/s"
        self._update(step, self._note, left)


def outcome(directory: Path, result: dict[str, Any], complete: bool, console: Console) -> None:
    """Draws the curves of a complete run, and prints what it came to."""
    curves = directory / "curves.png"
    if is_lead() and not (complete and curves.exists()):
        with optional(f"the picture {curves}", console.print):
            # Importing Matplotlib takes half a second, which nobody needs to wait for at the start.
            from resnet_jax.analysis.plots import plot_curves

            config, run_name = workdir.read_config(directory), directory.resolve().name
            title = f"{run_name}: {name(config)} on {config.dataset.name}"
            plot_curves({run_name: read_metrics(directory)}, curves, title)
    split = result.get("split", "test")
    error = result.get(f"{split}_error")
    found = f"loss {result[f'{split}_loss']:.4f}" if error is None else f"error {error:.2%}"
    console.print(f"{split} {found} on {result[f'{split}_images']} images after {result['step']} iterations")
    checkpoint = directory / "checkpoints" / str(result["step"])
    gone = "" if checkpoint.is_dir() else f" is gone: without {directory / 'result.json'} this trains it again"
    console.print(f"checkpoint {checkpoint}{gone}")
    if curves.exists():
        console.print(f"curves     {curves}")
