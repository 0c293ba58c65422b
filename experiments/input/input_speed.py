"""How fast images become the windows of training: 224 x 224, uint8, on the host.

    python experiments/input/input_speed.py --dataset=imagenet2012|folder|cache --data_dir=DIR
        [--crop=random_scale|random_resized_crop] [--batch_size=256] [--workers=0,…] [--rounds=5] [--seconds=5]
        [--format=table|json]

The training split is read in random order, again and again: by a plain Pillow loader, window by window, and as
training's batches with each number of workers, where 0 are threads on all cores. Their rounds alternate.
"""

import contextlib
import io
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from os import sysconf
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from resnet_jax.benchmark.measuring import heading, in_turn, spread, written
from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping, TrainBatches
from resnet_jax.data.tiles import ImageData, TiledJpeg
from resnet_jax.data.windows import area_window, resized_size
from resnet_jax.distributed.machine import available_cores, describe_environment
from resnet_jax.errors import InputError
from resnet_jax.runs.terminal import table

SCALES, SIZE = (256, 480), 224


class Round(NamedTuple):
    """What a loader did: the images, the seconds it took, and those of all processors together (None: not known)."""

    images: int
    seconds: float
    cpu_seconds: float | None


class Loader(NamedTuple):
    """A way to read images: its name, the cores that it keeps busy, and what reads for so many seconds."""

    name: str
    cores: int
    round: Callable[[float], Round]


@command
def input_speed(
    *,
    dataset: str,
    data_dir: Path,
    crop: Literal["random_scale", "random_resized_crop"] = "random_scale",
    batch_size: int = 256,
    workers: list[int] | None = None,
    rounds: int = 5,
    seconds: float = 5.0,
    format: Format = "table",
) -> None:
    """The command; as JSON: "environment", "arguments", "images" (their number) and "loaders", see `measure`."""
    workers = workers or [0]
    arguments = {name: value for name, value in locals().items() if name != "format"}
    if min(batch_size, rounds) < 1 or seconds <= 0 or min(workers) < 0:
        raise InputError("--batch_size and --rounds are at least 1, --seconds above 0, and --workers at least 0")
    images = open_images(dataset, data_dir).train
    result = {
        "environment": describe_environment(),
        "arguments": {**arguments, "data_dir": str(data_dir)},
        "images": len(images),
        "loaders": measure(make_loaders(images, crop, batch_size, workers), rounds, seconds),
    }
    data = f"data      {len(images)} images; medians and quartiles of {rounds} rounds"
    show(format, result, lambda: "\n".join([*heading(result), data, "", loader_table(result["loaders"])]))


def make_loaders(source: ImageSource, crop: str, batch_size: int, workers: Sequence[int]) -> list[Loader]:
    """What is compared: a plain loader with Pillow in one thread, reading of windows in one thread, and the stream of
    training for each number of workers.
    """
    cropping = Cropping(crop, SCALES, SIZE)
    loaders = [
        Loader("Pillow", 1, _one_thread(source, partial(pillow_window, crop))),
        Loader("windows", 1, _one_thread(source, cropping)),
    ]
    for number in workers:
        cores = min(number, available_cores()) or available_cores()
        name = f"stream, {number} workers" if number else f"stream, {cores} threads"
        loaders.append(Loader(name, cores, _stream(source, cropping, batch_size, number, cores)))
    return loaders


def pillow_window(crop: str, data: ImageData, random: np.random.Generator) -> np.ndarray:
    """A training window as a plain loader makes it, with Pillow alone: (224, 224, 3) uint8.

    The image is decoded whole; for "random_scale" it is then resized whole and cut, for "random_resized_crop" it is cut
    and then resized.

    With the same random numbers it is the window that `Cropping` makes.
    """
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
    else:
        image = Image.open(io.BytesIO(data.data if isinstance(data, TiledJpeg) else data))
        image = (ImageOps.exif_transpose(image) if isinstance(data, UprightFile) else image).convert("RGB")
    if crop == "random_scale":
        height, width = resized_size(image.height, image.width, int(random.integers(*SCALES, endpoint=True)))
        top, left = (int(random.integers(length - SIZE, endpoint=True)) for length in (height, width))
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))
    box = area_window(image.height, image.width, random)
    return np.asarray(image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _one_thread(
    source: ImageSource, read: Callable[[ImageData, np.random.Generator], np.ndarray]
) -> Callable[[float], Round]:
    random = np.random.default_rng(0)
    order = itertools.cycle(random.permutation(len(source)).tolist())

    def run(seconds: float) -> Round:
        started, used, images, elapsed = time.perf_counter(), time.process_time(), 0, 0.0
        while elapsed < seconds:
            image = source[next(order)]
            try:
                read(image.data, random)
            except (UnreadableImageError, OSError) as error:
                raise InputError(f"{image.name} is damaged: {error}") from error
            images += 1
            elapsed = time.perf_counter() - started
        return Round(images, elapsed, time.process_time() - used)

    return run


def _stream(
    source: ImageSource, cropping: Cropping, batch_size: int, workers: int, cores: int
) -> Callable[[float], Round]:
    def run(seconds: float) -> Round:
        # Anew for each round: what a stream reads ahead while others are measured would slow these and speed it up.
        batches = TrainBatches(source, cropping, seed=0, batch_size=batch_size, start=0, num_workers=workers)
        with contextlib.closing(batches):
            # Until the last worker has started; what the others had ready by then is not measured either.
            for _ in range(2 * cores):
                next(batches)
            started, used, images, elapsed = time.perf_counter(), _cpu_seconds(), 0, 0.0
            while elapsed < seconds:
                images += len(next(batches).images)
                elapsed = time.perf_counter() - started
            cpu = None if used is None else (_cpu_seconds() or used) - used
            return Round(images, elapsed, cpu)

    return run


def _cpu_seconds() -> float | None:
    """Processor time of this process and its workers; None where workers do not tell theirs (outside Linux)."""
    total = time.process_time()
    for worker in multiprocessing.active_children():
        status = Path(f"/proc/{worker.pid}/stat")
        if not status.exists():
            return None
        user, system = status.read_text().rpartition(")")[2].split()[11:13]
        total += (int(user) + int(system)) / sysconf("SC_CLK_TCK")
    return total


def measure(loaders: Sequence[Loader], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Runs rounds of the loaders in turn.

    Returns:
      a dict for each loader, with
        name, cores;
        images_per_second, images_per_second_per_core;
        images_per_cpu_second: of all processors together, which other programs on the machine hardly change, or None;
        relative_speed, relative_cpu_speed: images_per_second_per_core and images_per_cpu_second / the first loader's.
      The last five are {"median", "q1", "q3", "n"} over the rounds.
    """
    done = in_turn([partial(loader.round, seconds) for loader in loaders], rounds)
    speeds = [np.array([one.images / one.seconds for one in measured]) for measured in done]
    per_core = [speed / loader.cores for speed, loader in zip(speeds, loaders, strict=True)]
    per_cpu = [np.array([one.images / (one.cpu_seconds or np.nan) for one in measured]) for measured in done]
    return [
        {
            "name": loader.name,
            "cores": loader.cores,
            "images_per_second": spread(speeds[i]),
            "images_per_second_per_core": spread(per_core[i]),
            "images_per_cpu_second": spread(per_cpu[i]),
            "relative_speed": spread(per_core[i] / per_core[0]),
            "relative_cpu_speed": spread(per_cpu[i] / per_cpu[0]),
        }
        for i, loader in enumerate(loaders)
    ]


def loader_table(loaders: Sequence[dict[str, Any]]) -> str:
    """Writes what `measure` returns as a table."""
    rows = [
        (
            row["name"],
            str(row["cores"]),
            written(row["images_per_second"], 0),
            f"{row['images_per_second_per_core']['median']:,.0f}",
            written(row["images_per_cpu_second"], 0),
            f"{row['relative_speed']['median']:.2f}",
            written(row["relative_cpu_speed"], 2),
        )
        for row in loaders
    ]
    return table(("loader", "cores", "images/s", "/core", "images/CPU s", "relative", "relative, CPU"), rows)


if __name__ == "__main__":
    input_speed(sys.argv[1:])
