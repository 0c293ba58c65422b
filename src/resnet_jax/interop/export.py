"""resnet-jax export: a trained network as one file that needs JAX and nothing of this package."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from resnet_jax.errors import InputError
from resnet_jax.evaluation.trained import Trained, load_trained
from resnet_jax.files import expanded, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")


def export(directory: str | os.PathLike[str], destination: str | os.PathLike[str]) -> Path:
    """Writes the newest checkpoint of a run as a program, pre-processing and parameters inside.

    Who has the file needs neither this package nor Flax, only `pip install jax flatbuffers`:

        import jax.export, pathlib
        program = jax.export.deserialize(bytearray(pathlib.Path("FILE").read_bytes()))
        probabilities = program.call(images)

    The images are uint8 (batch, height, width, channels) of any number, at least one; the probabilities are float32
    (batch, classes). FILE.json says the rest: the names of the classes in this order, the shape of an image and how to
    make one. JAX promises to run the program for six months of its releases after the one that wrote it, which
    FILE.json names.

    Args:
      directory: the run's workdir.
      destination: FILE, of any name; an old one is replaced.

    Returns:
      The path of FILE.json.

    Raises:
      InputError: no checkpoint, or a file that cannot be written or that belongs to the run.
    """
    directory, destination = expanded(directory, "workdir"), expanded(destination, "output")
    beside = destination.with_name(destination.name + ".json")
    _check_destination(directory, destination, beside)
    trained = load_trained(directory)
    data = bytes(exported_program(trained).serialize())
    write_whole(beside, json.dumps(describe(trained), indent=2, ensure_ascii=False) + "\n")
    write_whole(destination, data)
    return beside


def exported_program(trained: Trained) -> jax.export.Exported:
    """The network as StableHLO for one CPU, CUDA or TPU device.

    Returns:
      uint8 (batch, *image_shape) -> float32 probabilities (batch, classes), for any batch.
    """
    # NumPy arrays, so that the program knows nothing of the mesh that they were on.
    variables, preprocessing = jax.device_get((trained.variables, trained.preprocessing))

    def probabilities(images: jax.Array) -> jax.Array:
        logits: Any = trained.model.apply(variables, preprocessing(images), train=False)
        return jax.nn.softmax(logits)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.card.image_shape), jnp.uint8)
    with _no_source_locations():
        return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)


def describe(trained: Trained) -> dict[str, Any]:
    """What FILE.json says: all that is needed to give the program images and to read its probabilities.

    "images" says in words what the protocol "center" of `evaluate` does with an image file, and the fields before it
    hold its numbers. The order of the channels, the mean and the standard deviation that the network was trained with
    are inside the program.
    """
    config, preprocessing = trained.config, trained.preprocessing
    height, width, channels = trained.card.image_shape
    shorter_side = preprocessing.shorter_side or max(height, width)
    grey = ", made grey (ITU-R 601-2 luma)" if channels == 1 else ""
    return {
        "network": f"{config.model.family}{config.model.depth}",
        "iteration": trained.step,
        "image_shape": [height, width, channels],
        "shorter_side": shorter_side,
        "interpolation": preprocessing.interpolation,
        "images": f"uint8 (batch, {height}, {width}, {channels}), batch at least 1: RGB, turned as their EXIF "
        f"orientation says (ImageNet's own are not), the shorter side resized to {shorter_side} "
        f"({preprocessing.interpolation}, antialiased), the central {height} x {width} cut out{grey}",
        "probabilities": "float32 (batch, classes)",
        "load": "jax.export.deserialize(bytearray(pathlib.Path(FILE).read_bytes())).call(images)",
        "requires": ["jax", "flatbuffers"],
        "jax_version": jax.__version__,
        "platforms": list(PLATFORMS),
        "class_names": list(trained.card.class_names),
    }


def _check_destination(directory: Path, destination: Path, beside: Path) -> None:
    """Before the work, not after it."""
    if destination.is_dir():
        raise InputError(f"{destination} is a folder: give the name of a file to write")
    if not destination.parent.is_dir():
        raise InputError(f"{destination.parent} is no folder: create it first, or write {destination.name} elsewhere")
    if destination.parent.resolve() == directory.resolve():
        for path in (destination, beside):
            if path.name in ("config.json", "metrics.jsonl", "result.json"):
                raise InputError(f"{path} is a file of the run and would be replaced: give another name")


@contextlib.contextmanager
def _no_source_locations() -> Iterator[None]:
    """Programs would hold the paths of the source files on the machine that wrote them."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)
