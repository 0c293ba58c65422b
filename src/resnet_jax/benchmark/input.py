"""How fast photographs become windows: the command `resnet-jax benchmark input`."""

import contextlib
import io
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from os import sysconf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from resnet_jax.benchmark.rounds import in_turn, spread, written
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.images import open_images
from resnet_jax.data.sequential import available_cores
from resnet_jax.data.stream import Cropping, train_batches
from resnet_jax.data.tiles import ImageData, TiledJpeg
from resnet_jax.data.windows import area_window, resized_size
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.errors import InputError
from resnet_jax.runs.terminal import table

CROPS = ("random_scale", "random_resized_crop")


class Round(NamedTuple):
    """What a loader did: the images, the seconds it took, and those of all processors together (None: not known)."""

    images: int
    seconds: float
    cpu_seconds: float | None


class Loader(NamedTuple):
    """A way to read photographs.

    Attributes:
      name: for the table.
      cores: that it keeps busy.
      round: reads for so many seconds.
    """

    name: str
    cores: int
    round: Callable[[float], Round]


def input_benchmark(
    dataset: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    crop: str = "random_scale",
    batch_size: int = 256,
    workers: Sequence[int] = (0, 2),
    rounds: int = 5,
    seconds: float = 5.0,
) -> dict[str, Any]:
    """Measures the input of training on photographs: 224 x 224 windows, uint8, on the host. Rounds of the loaders of
    `make_loaders` alternate.

    Args:
      dataset, data_dir: see `open_images`; the training split is read, in random order, again and again.
      crop: "random_scale" or "random_resized_crop", see `stream.Cropping`.
      batch_size: images in a batch of the stream.
      workers: processes of the stream, one loader for each number; 0 are threads on all cores.
      rounds: measured, after one that is not.
      seconds: of a round.

    Returns:
      a JSON-able dict: "environment", "arguments", "photographs" (their number), and "loaders", see `measure`.

    Raises:
      InputError: an argument that cannot be, or data that are absent.
    """
    arguments = {**locals(), "workers": list(workers), "data_dir": data_dir and os.fspath(data_dir)}
    if crop not in CROPS:
        raise InputError(f"crop is {crop!r}, but it must be one of {', '.join(CROPS)}")
    for argument, value in (("batch_size", batch_size), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{argument} is {value}, but it must be at least 1")
    if seconds <= 0:
        raise InputError(f"seconds is {seconds:g}, but it must be more than 0")
    if any(number < 0 for number in workers):
        raise InputError(f"workers is {min(workers)}, but it must be at least 0")
    photographs = open_images(dataset, data_dir).train
    return {
        "environment": describe_environment(),
        "arguments": arguments,
        "photographs": len(photographs),
        "loaders": measure(make_loaders(photographs, crop, batch_size, workers), rounds, seconds),
    }


def make_loaders(photographs: ImageSource, crop: str, batch_size: int, workers: Sequence[int]) -> list[Loader]:
    """What is compared: a plain loader with Pillow in one thread, reading of windows in one thread, and the stream of
    training for each number of workers.
    """
    cropping = Cropping(crop, (256, 480), 224)
    loaders = [
        Loader("Pillow", 1, _one_thread(photographs, partial(pillow_window, cropping))),
        Loader("windows", 1, _one_thread(photographs, cropping)),
    ]
    for number in workers:
        cores = min(number, available_cores()) or available_cores()
        name = f"stream, {number} workers" if number else f"stream, {cores} threads"
        loaders.append(Loader(name, cores, _stream(photographs, cropping, batch_size, number, cores)))
    return loaders


def pillow_window(cropping: Cropping, data: ImageData, random: np.random.Generator) -> np.ndarray:
    """A training window as a plain loader makes it, with Pillow alone: the photograph is decoded whole; for "scale" it
    is then resized whole and cut, for "area" it is cut and then resized. (side, side, 3) uint8.

    With the same random numbers it is the window that `cropping` makes.
    """
    side, bilinear = cropping.side, Image.Resampling.BILINEAR
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
    else:
        image = Image.open(io.BytesIO(data.data if isinstance(data, TiledJpeg) else data))
        image = (ImageOps.exif_transpose(image) if isinstance(data, UprightFile) else image).convert("RGB")
    if cropping.crop == "random_scale":
        scale = int(random.integers(cropping.scales[0], cropping.scales[1], endpoint=True))
        height, width = resized_size(image.height, image.width, scale)
        top, left = (int(random.integers(length - side, endpoint=True)) for length in (height, width))
        return np.asarray(image.resize((width, height), bilinear).crop((left, top, left + side, top + side)))
    box = area_window(image.height, image.width, random)
    return np.asarray(image.crop(box).resize((side, side), bilinear))


def _one_thread(
    photographs: ImageSource, read: Callable[[ImageData, np.random.Generator], np.ndarray]
) -> Callable[[float], Round]:
    random = np.random.default_rng(0)
    order = itertools.cycle(random.permutation(len(photographs)).tolist())

    def run(seconds: float) -> Round:
        started, used, images, elapsed = time.perf_counter(), time.process_time(), 0, 0.0
        while elapsed < seconds:
            photograph = photographs[next(order)]
            try:
                read(photograph.data, random)
            except (UnreadableImageError, OSError) as error:
                raise InputError(
                    f"{photograph.name} is damaged, and what reads it cannot be measured: {error}"
                ) from error
            images += 1
            elapsed = time.perf_counter() - started
        return Round(images, elapsed, time.process_time() - used)

    return run


def _stream(
    photographs: ImageSource, cropping: Cropping, batch_size: int, workers: int, cores: int
) -> Callable[[float], Round]:
    def run(seconds: float) -> Round:
        # Anew for each round: what a stream reads ahead while others are measured would slow these and speed it up.
        batches = train_batches(photographs, cropping, seed=0, batch_size=batch_size, start=0, workers=workers)
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
