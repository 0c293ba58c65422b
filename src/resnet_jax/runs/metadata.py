"""The metadata of a checkpoint: what it says of its network in words and numbers, as one text with a checksum."""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError

# Version 0 had no number, no fingerprint of the pre-processing, no checksum of the card and no count of skipped steps.
VERSION = 1


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint says of its network and data: the class names in the order of the logits, (height, width,
    channels) of an image, and the CRC-32 of the training images and labels, of which another data set has another one.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    data_crc: int


# Fields of `Preprocessing` that are no arrays, and the names that they have in the text.
_VIEW = {"channel_order": "channel_order", "resize_size": "shorter_side", "interpolation": "interpolation"}


def seal(
    metadata: CheckpointMetadata,
    preprocessing: Preprocessing,
    fingerprints: Mapping[str, int],
    identity: int | None = None,
) -> dict[str, Any]:
    """What a checkpoint keeps of all that is no array, and the fingerprints of its parts, as one text: Orbax would
    write a file's worth of each of a thousand class names. The identity is that of the run, see `workdir.identity`.
    """
    shapes = {"mean_shape": preprocessing.mean.shape, "std_shape": preprocessing.std.shape}
    view = {saved: getattr(preprocessing, name) for name, saved in _VIEW.items()}
    known = {**dataclasses.asdict(metadata), "fingerprints": dict(fingerprints), **shapes, **view}
    known |= {} if identity is None else {"identity": identity}
    text = json.dumps({"version": VERSION, **known})
    return {"text": text, "crc": zlib.crc32(text.encode())}


def unseal(saved: Mapping[str, Any]) -> tuple[CheckpointMetadata, dict[str, Any]]:
    """What `seal` was given, and all its fields; "version" is 0 where the version before wrote them.

    Raises:
      ValueError: the fields are not those that were saved.
      InputError: a newer version.
    """
    # Of the version before. Any other name is a damaged one.
    names = {"class_names", "image_shape", "data_crc", "fingerprints", "mean_shape", "std_shape"}
    if saved.keys() == {"text", "crc"} and zlib.crc32(saved["text"].encode()) == saved["crc"]:
        fields = json.loads(saved["text"])
    elif names <= saved.keys() <= names.union(_VIEW.values()):
        fingerprints = dict(zip(("variables", "training"), saved["fingerprints"], strict=True))
        fields = {**saved, "version": 0, "fingerprints": fingerprints}
    else:
        raise ValueError("its metadata are not those that were saved")
    if fields["version"] > VERSION:
        raise InputError(
            f"a checkpoint is of version {fields['version']}, made by a newer resnet_jax, and this one reads versions "
            f"up to {VERSION}: update it"
        )
    return CheckpointMetadata(tuple(fields["class_names"]), tuple(fields["image_shape"]), fields["data_crc"]), fields


def abstract_preprocessing(fields: Mapping[str, Any], sharding: Sharding) -> Preprocessing:
    """Shapes of the pre-processing of a checkpoint with these fields, for restoring it."""
    shapes: list[Any] = [
        jax.ShapeDtypeStruct(tuple(fields[f"{name}_shape"]), jnp.float32, sharding=sharding) for name in ("mean", "std")
    ]
    # A checkpoint that is older than these fields has their defaults.
    view = {name: fields[saved] for name, saved in _VIEW.items() if saved in fields}
    return Preprocessing(*shapes, **view)
