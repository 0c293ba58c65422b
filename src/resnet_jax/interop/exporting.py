"""A classifier as one file that needs JAX and nothing of this package."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.files import check_bucket, expanded, is_remote, write_whole
from resnet_jax.models import ResNet
from resnet_jax.models.zoo import family_and_depth

PLATFORMS = ("cpu", "cuda", "tpu")


def export(classifier: Classifier, path: str | os.PathLike[str], iteration: int | None = None) -> Path:
    """Writes a classifier as a program, pre-processing and parameters inside.

    Who has the file needs neither this package nor Flax, only `pip install jax flatbuffers`:

        import jax.export, pathlib
        program = jax.export.deserialize(bytearray(pathlib.Path("FILE").read_bytes()))
        probabilities = program.call(images)

    The images are uint8 (batch, height, width, channels) of any number, at least one; the probabilities are float32
    (batch, classes). FILE.json, whose path is returned, says the rest: the names of the classes in this order, the
    shape of an image, how to make one, and the `iteration` of the training. JAX promises to run the program for six
    months of its releases after the one that wrote it, which FILE.json names.

    Raises:
      InputError: a file that cannot be written; an old one is replaced.
    """
    path = expanded(path, "output", remote=True)
    check_bucket(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file to write")
    if not (is_remote(path) or path.parent.is_dir()):
        raise InputError(f"{path.parent} is no folder: create it first, or write {path.name} elsewhere")
    data = bytes(exported_program(classifier).serialize())
    beside = path.with_name(f"{path.name}.json")
    write_whole(beside, json.dumps(describe(classifier, iteration), indent=2, ensure_ascii=False) + "\n")
    write_whole(path, data)
    return beside


def exported_program(classifier: Classifier) -> jax.export.Exported:
    """For one CPU, CUDA or TPU device: uint8 (batch, *image_shape) -> float32 probabilities (batch, classes)."""
    # NumPy arrays, so that the program knows nothing of the mesh that they were on.
    classifier = jax.device_get(classifier)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *classifier.image_shape), jnp.uint8)
    probabilities = jax.jit(lambda images: jax.nn.softmax(classifier(images)))
    # Programs would hold the paths of the source files on the machine that wrote them.
    limit = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, limit)
    jax.config.update(limit, 0)
    try:
        return jax.export.export(probabilities, platforms=PLATFORMS)(images)
    finally:
        jax.config.update(limit, before)


def describe(classifier: Classifier, iteration: int | None = None) -> dict[str, Any]:
    """What FILE.json says: all that is needed to give the program images and to read its probabilities.

    "images" says in words what the protocol "center" of `evaluate` does with an image file. The order of the channels,
    the mean and the standard deviation are inside the program.
    """
    model, (height, width, channels) = classifier.model, classifier.image_shape
    resize_size = classifier.preprocessing.resized_to(classifier.image_shape)
    interpolation = classifier.preprocessing.interpolation
    grey = ", made grey (ITU-R 601-2 luma)" if channels == 1 else ""
    return {
        "network": "{}{}".format(*family_and_depth(model)) if isinstance(model, ResNet) else type(model).__name__,
        "iteration": iteration,
        "image_shape": [height, width, channels],
        "resize_size": resize_size,
        "interpolation": interpolation,
        "images": f"uint8 (batch, {height}, {width}, {channels}), batch at least 1: RGB, turned as their EXIF "
        f"orientation says (ImageNet's own are not), the shorter side resized to {resize_size} ({interpolation}, "
        f"antialiased), the central {height} x {width} cut out{grey}",
        "probabilities": "float32 (batch, classes)",
        "load": "jax.export.deserialize(bytearray(pathlib.Path(FILE).read_bytes())).call(images)",
        "requires": ["jax", "flatbuffers"],
        "jax_version": jax.__version__,
        "platforms": list(PLATFORMS),
        "class_names": list(classifier.class_names),
    }
