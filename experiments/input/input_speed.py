"""How fast images become the windows of training, beside a plain loader with Pillow.

    python experiments/input/input_speed.py --dataset=imagenet2012|folder|cache --data_dir=DIR
        [--crop=random_scale|random_resized_crop] [--batch_size=256] [--workers=0,…] [--rounds=5] [--seconds=5]
        [--format=table|json]

What `resnet-jax benchmark input` measures, 224 x 224 pixels of it, and window by window with Pillow in one thread, with
which the others are compared. Their rounds alternate.
"""

import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from resnet_jax.benchmark import input as ours
from resnet_jax.benchmark.input import Loader, loader_table, measure, one_thread
from resnet_jax.benchmark.measuring import heading
from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.images import open_images
from resnet_jax.data.tiles import ImageData, TiledJpeg
from resnet_jax.data.windows import area_window, resized_size
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.errors import InputError

SCALES, SIZE = (256, 480), 224


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
    """What is compared: a plain loader with Pillow in one thread, and the loaders of `resnet-jax benchmark input`."""
    pillow = Loader("Pillow", 1, one_thread(source, partial(pillow_window, crop)))
    return [pillow, *ours.make_loaders(source, crop, batch_size, workers, SIZE)]


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


if __name__ == "__main__":
    input_speed(sys.argv[1:])
