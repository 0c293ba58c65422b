"""Boxes around what a map of scores marks, and how well they fit to true ones.

A box is (x0, y0, x1, y1) in pixels, whose first and last pixels both belong to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Float, Int, Num

from resnet_jax.errors import InputError, check_whole

_INTERPOLATIONS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def upsample(
    maps: Num[Array | np.ndarray, "batch map_height map_width"],
    height: int,
    width: int,
    interpolation: str = "bilinear",
    grid: Sequence[float] | np.ndarray | None = None,
) -> Float[np.ndarray, "batch height width"]:
    """Maps at the size of their images, float32.

    With the `grid` of `ActivationMaps` each cell lies at the centre of what it sees. Without one the cells share the
    image out among them, as in `cv2.resize`; the published measures of boxes, see `max_box_accuracy`, do that. The
    cells of a ResNet are centred near their first pixels, so that its maps then lie too far right and down: by 1.5
    pixels in a CIFAR network, by 13.5 in an ImageNet network of the paper's release.

    Args:
      maps: such as those of `class_activation_maps`.
      height, width: in pixels.
      interpolation: "nearest", "bilinear" or "bicubic" (a = -0.75), as OpenCV computes them.
      grid: the pixel at the centre of the first cell, and the pixels from one cell to the next; beyond the outermost
        cells their values are repeated.

    Raises:
      InputError: no such interpolation, no map or no pixel, or a grid that is none.

    >>> upsample(np.array([[[0.0, 4.0]]]), 1, 4)
    array([[[0., 1., 3., 4.]]], dtype=float32)
    >>> upsample(np.array([[[0.0, 4.0]]]), 1, 4, grid=(0, 2))
    array([[[0., 2., 4., 4.]]], dtype=float32)
    """
    if interpolation not in _INTERPOLATIONS:
        raise InputError(f"interpolation is {interpolation!r}, but it must be one of {', '.join(_INTERPOLATIONS)}")
    check_whole(height=height, width=width)
    how, given = _INTERPOLATIONS[interpolation], np.asarray(maps, np.float32)
    if given.ndim != 3 or not given.size:
        raise InputError(
            f"maps are {given.shape}, but they must be at least one map (batch, height, width): [map] is one"
        )
    if grid is None:
        return np.stack([cv2.resize(each, (width, height), interpolation=how) for each in given])
    if np.shape(grid) != (2,) or not np.all(np.isfinite(grid)) or grid[1] <= 0:
        raise InputError(
            f"grid is {grid!r}, but it must be the pixel at the centre of the first cell and those to the next one"
        )
    first, stride = grid
    rows, columns = (((np.arange(side) - first) / stride).astype(np.float32) for side in (height, width))
    x, y = np.meshgrid(columns, rows)
    return np.stack([cv2.remap(each, x, y, how, borderMode=cv2.BORDER_REPLICATE) for each in given])


def largest_region(scores: Num[Array | np.ndarray, "height width"], threshold: float = 0.2) -> tuple[int, ...] | None:
    """The box around the largest connected region above a share of the largest score: the rule of the class activation
    maps' paper (1512.04150, section 3.2), which takes 20 %.

    Args:
      scores: a map, as large as its image where the box is to be in pixels of that.
      threshold: of the map's largest value.

    Returns:
      the box, or None where no score is positive. Pixels that touch at a corner are connected.

    Raises:
      InputError: this is no map of numbers, or the threshold is not from 0 to below 1.

    >>> largest_region(np.array([[0.0, 9.0, 8.0], [0.0, 0.0, 7.0], [3.0, 0.0, 1.0]]))
    (1, 0, 2, 1)
    """
    values = np.asarray(scores, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InputError(f"scores are {values.shape}, but they must be one map (height, width) of finite numbers")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold}, but it must be a share of the largest value, from 0 to below 1")
    if values.max() <= 0:
        return None
    _, _, regions, _ = cv2.connectedComponentsWithStats((values > threshold * values.max()).astype(np.uint8))
    x, y, width, height, _ = max(regions[1:].tolist(), key=lambda region: region[cv2.CC_STAT_AREA])
    return x, y, x + width - 1, y + height - 1


def box_iou(
    boxes: Num[np.ndarray, "n 4"] | Sequence[Sequence[int]], others: Num[np.ndarray, "m 4"] | Sequence[Sequence[int]]
) -> Float[np.ndarray, "n m"]:
    """The intersection over union of each box with each other one, float64.

    Raises:
      InputError: these are no boxes.

    >>> box_iou([(0, 0, 9, 9)], [(0, 0, 9, 4), (20, 20, 29, 29)])
    array([[0.5, 0. ]])
    """
    a, b = _boxes(boxes)[:, None], _boxes(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    common = sides.clip(0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2] + 1).prod(-1) for each in (a, b)]
    return common / (areas[0] + areas[1] - common)


def _boxes(given: Any) -> np.ndarray:
    boxes = np.asarray(given, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes are {given}, but they must be a list of (x0, y0, x1, y1)")
    right = np.isfinite(boxes).all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1)
    if not right.all():
        raise InputError(
            f"a box is {tuple(boxes[~right][0].tolist())}, but its last pixel must not be before its first one: "
            "(x0, y0, x1, y1) has both in it"
        )
    return boxes


class BoxAccuracy(NamedTuple):
    """How often a box is right, at the threshold that suits the images best.

    Attributes:
      accuracy: the share of images, 0 to 1; of V2 the mean over its three overlaps.
      thresholds: the best one for each overlap, as a share of a map's largest value.
      curves: the share of images for each overlap and threshold, (overlaps, steps).
    """

    accuracy: float
    thresholds: tuple[float, ...]
    curves: np.ndarray


# The overlaps that count as right, and whether any region's box may be it or only the largest one's.
_VERSIONS = {1: ((0.5,), False), 2: ((0.3, 0.5, 0.7), True)}


def max_box_accuracy(
    scores: Num[Array | np.ndarray, "batch height width"],
    true_boxes: Sequence[Int[np.ndarray, "boxes 4"] | Sequence[Sequence[int]]],
    version: int = 1,
    steps: int = 1000,
) -> BoxAccuracy:
    """MaxBoxAcc of Choe et al. (2001.07437), and its second version (2007.04178), as their wsolevaluation computes it.

    Each map is scaled to 0 … 1, and to 8 bits. At each threshold the box around the largest contour is right if it
    overlaps any true box by half; of version 2 the box around any contour may be, by 0.3, 0.5 or 0.7, whose accuracies
    are averaged. **The threshold is the one that is best on these very images.** A box ends one pixel beyond its
    contour, as it does there.

    Args:
      scores: one map of each image, of its true class, as large as the image; there: 224 x 224, bicubic.
      true_boxes: at least one of each image, in pixels of its map.
      version: 1 or 2.
      steps: thresholds, from 0 to below 1.

    Raises:
      InputError: no such version, not as many boxes as maps, or what are no boxes or no maps.

    >>> scores = np.zeros((1, 16, 16))
    >>> scores[0, 4:8, 4:8] = 1
    >>> max_box_accuracy(scores, [[(4, 4, 8, 8)]]).accuracy
    1.0
    """
    if version not in _VERSIONS:
        raise InputError(f"version is {version!r}, but MaxBoxAcc has versions 1 and 2")
    check_whole(steps=steps)
    maps = np.array(scores, np.float32)
    if maps.ndim != 3 or not maps.size or not np.isfinite(maps).all():
        raise InputError(f"scores are {maps.shape}, but they must be maps (batch, height, width) of finite numbers")
    if len(maps) != len(true_boxes) or not all(len(boxes) for boxes in true_boxes):
        raise InputError(f"there are {len(maps)} maps and {len(true_boxes)} lists of boxes: each map needs its own")
    overlaps, any_region = _VERSIONS[version]
    limits = np.arange(steps) / steps
    right = np.zeros((len(overlaps), steps))
    for each, boxes in zip(maps, true_boxes, strict=True):
        span = each.max() - each.min()
        gray = ((each - each.min()) / (span or 1) * 255).astype(np.uint8)
        # On 8 bits most thresholds are the same one.
        levels, places = np.unique((limits * gray.max()).astype(int), return_inverse=True)
        best = np.array([box_iou(_contours(gray, int(level), any_region), boxes).max() for level in levels])
        right += best[places] >= np.array(overlaps)[:, None]
    curves = right / len(maps)
    return BoxAccuracy(float(curves.max(1).mean()), tuple(limits[curves.argmax(1)].tolist()), curves)


def _contours(gray: np.ndarray, level: int, any_region: bool) -> list[tuple[int, ...]]:
    """Boxes around the contours above a level, those of holes too; where there is none, the first pixel."""
    _, mask = cv2.threshold(gray, level, 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return [(0, 0, 0, 0)]
    height, width = gray.shape
    chosen = contours if any_region else [max(contours, key=cv2.contourArea)]
    found = [cv2.boundingRect(contour) for contour in chosen]
    return [(x, y, min(x + w, width - 1), min(y + h, height - 1)) for x, y, w, h in found]
