"""Which part of a photograph a network is shown: geometry alone."""

import math
from typing import NamedTuple

import numpy as np

# Of a photograph, the part of its area that the least "area" window shows.
LEAST_AREA = 0.08


class Box(NamedTuple):
    """A part of an image, in its pixels; edges may lie between two pixels."""

    left: float
    top: float
    right: float
    bottom: float


def scale_window(height: int, width: int, random: np.random.Generator, scales: tuple[int, int], side: int) -> Box:
    """The paper's scale augmentation (section 3.4): the shorter side becomes a whole number drawn uniformly from
    [scales[0], scales[1]], then a random `side` x `side` window is cut.
    """
    scale = int(random.integers(scales[0], scales[1], endpoint=True))
    resized = resized_size(height, width, scale)
    top, left = (int(random.integers(length - side, endpoint=True)) for length in resized)
    return _window(height, width, resized, top, left, side, side)


def area_window(height: int, width: int, random: np.random.Generator) -> Box:
    """The common "random resized crop" (Szegedy et al., 1409.4842): 8 to 100 % of the area, aspect 3/4 to 4/3.

    Ten draws are tried; when none fits, the largest centred window of a permitted aspect is taken, as in torchvision.
    """
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = height * width * random.uniform(LEAST_AREA, 1)
        aspect = math.exp(random.uniform(low, high))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(random.integers(height - tall, endpoint=True))
            left = int(random.integers(width - wide, endpoint=True))
            return Box(left, top, left + wide, top + tall)
    wide, tall = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - wide) // 2, (height - tall) // 2
    return Box(left, top, left + wide, top + tall)


def resized_size(height: int, width: int, resize_size: int) -> tuple[int, int]:
    """(height, width) with a shorter side of `resize_size`; the longer one is rounded down, as in torchvision."""
    shorter = min(height, width)
    return resize_size * height // shorter, resize_size * width // shorter


def center_window(height: int, width: int, resize_size: int, size: tuple[int, int]) -> Box:
    """The centre crop of section 3.4: the shorter side becomes `resize_size`, then the central `size` is cut."""
    resized = resized_size(height, width, resize_size)
    # Rounded as in torchvision: half to even.
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    return _window(height, width, resized, top, left, *size)


def corner_windows(height: int, width: int, resize_size: int, size: tuple[int, int]) -> list[Box]:
    """The five windows of the ten-crop: top left, top right, bottom left, bottom right, and the centre."""
    resized = resized_size(height, width, resize_size)
    low, far = resized[0] - size[0], resized[1] - size[1]
    corners = [(0, 0), (0, far), (low, 0), (low, far)]
    boxes = [_window(height, width, resized, top, left, *size) for top, left in corners]
    return [*boxes, center_window(height, width, resize_size, size)]


def _window(height: int, width: int, resized: tuple[int, int], top: int, left: int, tall: int, wide: int) -> Box:
    """A window of the resized image, in pixels of the whole one."""
    down, across = height / resized[0], width / resized[1]
    return Box(left * across, top * down, min((left + wide) * across, width), min((top + tall) * down, height))
