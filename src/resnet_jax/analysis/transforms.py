"""Images turned and magnified, and how much that changes what a function computes of them."""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Num

from resnet_jax.errors import InputError


def relative_change(
    function: Callable[[Any], Any],
    images: Num[np.ndarray, "count height width channels"],
    transform: Callable[[np.ndarray], np.ndarray],
) -> float:
    """How much what a function computes of images changes when they are transformed: the mean over the images of
    ``|f(t(x)) - f(x)| / |f(x)|``, in Euclidean norms. It tells what a pooling or a layer tolerates.

    >>> ramp = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> relative_change(lambda images: images.mean((1, 2)), ramp, lambda images: np.roll(images, 1, axis=2))
    0.0
    """
    both = (images, transform(images))
    if not len(images) or len(both[1]) != len(images):
        raise InputError(f"{len(images)} images became {len(both[1])}, but each image needs a transformed one")
    before, after = (np.asarray(function(each), np.float64).reshape(len(images), -1) for each in both)
    norms = np.linalg.norm(before, axis=1)
    return float((np.linalg.norm(after - before, axis=1) / np.maximum(norms, 1e-30)).mean())


def rotate(images: Num[np.ndarray, "count height width channels"], degrees: float) -> np.ndarray:
    """Images turned counter-clockwise around their centre, bilinear; what comes in from outside repeats the border.
    They are uint8, float32 or float64, and stay such.

    >>> rotate(np.arange(9.0).reshape(1, 3, 3, 1), 90)[0, :, :, 0].round(4).tolist()
    [[2.0, 5.0, 8.0], [1.0, 4.0, 7.0], [0.0, 3.0, 6.0]]
    """
    return _warped(images, degrees, 1.0)


def scale(images: Num[np.ndarray, "count height width channels"], factor: float) -> np.ndarray:
    """Images magnified around their centre, in their own frame; as `rotate` otherwise."""
    return _warped(images, 0.0, factor)


def _warped(images: np.ndarray, degrees: float, factor: float) -> np.ndarray:
    if np.ndim(images) != 4 or not len(images) or images.dtype not in (np.uint8, np.float32, np.float64):
        given = f"{getattr(images, 'dtype', type(images).__name__)} {np.shape(images)}"
        raise InputError(f"images are {given}, but they must be (count, height, width, channels), uint8 or float")
    if not (factor > 0 and math.isfinite(factor) and math.isfinite(degrees)):
        raise InputError(
            f"degrees are {degrees} and the factor is {factor}, but both must be finite, the factor above 0"
        )
    height, width = images.shape[1:3]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)
    turned = [
        cv2.warpAffine(each, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for each in images
    ]
    return np.stack(turned).reshape(images.shape)  # OpenCV drops a single channel
