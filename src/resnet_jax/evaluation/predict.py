"""What a trained network sees in image files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from resnet_jax.data.augment import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.trained import Trained
from resnet_jax.models import ResNet


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads an image file as the network was trained to see images.

    The shorter side is resized, the centre is cropped, and colour becomes grey where the network sees grey.

    Args:
      path: any format that Pillow reads.
      shape: (height, width, channels) of the result, uint8; channels 1 or 3.

    Raises:
      InputError: the file is absent or no image.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as opened:
            # Pillow cuts 16-bit grey at 255 instead of scaling it.
            shown = opened.point(lambda value: value / 256) if opened.mode.startswith("I;16") else opened
            image = shown.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise InputError(f"there is no image file {path}") from error
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error
    scale = max(width / image.width, height / image.height)
    size = (max(round(image.width * scale), width), max(round(image.height * scale), height))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height))).reshape(shape)


# Images at a time: any number of them takes one compiled program.
_CHUNK = 64


@partial(jax.jit, static_argnums=0)
def _probabilities(model: ResNet, variables: Any, preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    logits: Any = model.apply(variables, preprocessing(images), train=False)
    return jax.nn.softmax(logits)


def predict(trained: Trained, images: np.ndarray) -> np.ndarray:
    """Class probabilities: uint8 (batch, height, width, channels) -> float32 (batch, classes)."""
    parts = []
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        padded = np.concatenate([chunk, np.zeros((_CHUNK - len(chunk), *chunk.shape[1:]), np.uint8)])
        found = _probabilities(trained.model, trained.variables, trained.preprocessing, padded)
        parts.append(np.asarray(found)[: len(chunk)])
    return np.concatenate(parts)


def predict_files(trained: Trained, paths: Sequence[Path], top: int = 5) -> list[dict[str, Any]]:
    """The most probable classes of each file: {"file", "classes": [{"name", "probability"}, …]} in falling order.

    Raises:
      InputError: a file that is absent or no image.
    """
    images = np.stack([read_image(path, trained.card.image_shape) for path in paths])
    return [
        {
            "file": str(path),
            "classes": [
                {"name": trained.card.class_names[i], "probability": float(row[i])} for i in np.argsort(-row)[:top]
            ],
        }
        for path, row in zip(paths, predict(trained, images), strict=True)
    ]
