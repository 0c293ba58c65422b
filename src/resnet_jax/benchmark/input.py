"""How fast images become the windows of training: the command `resnet-jax benchmark input`."""

import contextlib
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.benchmark.measuring import DTYPES, check_choice, check_several, heading, in_turn, spread, written
from resnet_jax.benchmark.train import train_benchmark
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import CROPS, Cropping, TrainBatches
from resnet_jax.data.tiles import ImageData
from resnet_jax.distributed.machine import available_cores, describe_environment
from resnet_jax.errors import InputError, check_whole
from resnet_jax.runs.terminal import table


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


def input_benchmark(
    dataset: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    crop: str = "random_scale",
    image_size: int = 224,
    batch_size: int = 256,
    workers: Sequence[int] = (0,),
    rounds: int = 5,
    seconds: float = 5.0,
    model: str | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Measures how fast this host reads, decodes and crops images, and how many cores would feed a device that trains.

    The training split is read in random order, again and again: in one thread, and as training's batches with each
    number of workers. Their rounds alternate.

    Args:
      dataset, data_dir: of `data.images.open_images`: image files, a cache, or ImageNet as TFDS prepared it.
      crop: one of `data.stream.CROPS`.
      image_size: of the windows, in pixels; the shorter sides of "random_scale" are 256/224 to 480/224 of it.
      batch_size: images in a batch of the stream, and in a step of the model, over all devices.
      workers: processes that decode, for which a script needs `if __name__ == "__main__":`; 0 are threads on all cores.
      rounds, seconds: timed, after one that is not, and the length of each.
      model, dtype: whose training step is measured on a float batch that stays on the devices; None is none.

    Returns:
      a JSON-able dict: "environment", "arguments", "images" (their number), "step_images_per_second" (of one device,
      or None without a model), and "loaders", one dict each, see `measure`, and with a model also

        cores_per_device: that many cores of this host read as fast as one of its devices trains.

    Raises:
      InputError: an argument that cannot be, data that are absent, or an image that is damaged.

    >>> input_benchmark("flowers")
    Traceback (most recent call last):
    resnet_jax.errors.InputError: unknown data set 'flowers': it is one of imagenet2012, folder, cache
    """
    arguments = dict(locals())
    check_choice("crop", crop, CROPS)
    check_whole(batch_size=batch_size, rounds=rounds, image_size=image_size)
    check_choice("dtype", dtype, DTYPES)
    check_several("(0, 4)", workers=workers)
    for number in workers:
        check_whole(0, workers=number)
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InputError(f"seconds is {seconds!r}, but it must be a number above 0")
    images = open_images(dataset, data_dir).train
    environment, per_device = describe_environment(), None
    if model is not None:
        how = {"batch_size": batch_size, "image_size": image_size, "dtype": dtype, "rounds": rounds}
        step = train_benchmark(model, **how, input="synthetic", steps=2)
        per_device = step["variants"][0]["images_per_second"] / environment["devices"]
    loaders = measure(make_loaders(images, crop, batch_size, workers, image_size), rounds, seconds)
    if per_device is not None:
        loaders = [
            {**row, "cores_per_device": per_device / row["images_per_second_per_core"]["median"]} for row in loaders
        ]
    return {
        "environment": environment,
        "arguments": {**arguments, "data_dir": data_dir and str(data_dir), "workers": list(workers)},
        "images": len(images),
        "step_images_per_second": per_device,
        "loaders": loaders,
    }


def make_loaders(
    source: ImageSource, crop: str, batch_size: int, workers: Sequence[int], image_size: int = 224
) -> list[Loader]:
    """What is measured: reading of windows in one thread, and the stream of training for each number of workers."""
    cropping = Cropping(crop, (image_size * 256 // 224, image_size * 480 // 224), image_size)
    loaders = [Loader("windows", 1, one_thread(source, cropping))]
    for number in workers:
        cores = min(number, available_cores()) or available_cores()
        name = f"stream, {number} workers" if number else f"stream, {cores} threads"
        loaders.append(Loader(name, cores, _stream(source, cropping, batch_size, number, cores)))
    return loaders


def one_thread(
    source: ImageSource, read: Callable[[ImageData, np.random.Generator], np.ndarray]
) -> Callable[[float], Round]:
    """The round of a `Loader` that reads one image after another, in random order: (data, random) -> window."""
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
        total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
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
    """Writes what `measure` returns as a table, with the cores for each device where they are known."""
    rows = [
        (
            row["name"],
            str(row["cores"]),
            written(row["images_per_second"], 0),
            f"{row['images_per_second_per_core']['median']:,.0f}",
            written(row["images_per_cpu_second"], 0),
            f"{row['relative_speed']['median']:.2f}",
            written(row["relative_cpu_speed"], 2),
            *([f"{row['cores_per_device']:,.1f}"] if "cores_per_device" in row else []),
        )
        for row in loaders
    ]
    headings = ("loader", "cores", "images/s", "/core", "images/CPU s", "relative", "relative, CPU", "cores/device")
    return table(headings[: len(rows[0])], rows)


def as_text(result: dict[str, Any]) -> str:
    """Writes what `input_benchmark` returns: the environment, the arguments and a table of the loaders."""
    lines, speed = [f"data      {result['images']:,} images"], result["step_images_per_second"]
    if speed is not None:
        model = result["arguments"]["model"]
        lines.append(f"step      {speed:,.1f} images/s of {model} on one device, where the batch stays")
    return "\n".join([*heading(result), *lines, "", loader_table(result["loaders"])])
