"""From an image file's bytes to the window of it that a network sees: host work, NumPy in and out, no JAX."""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from resnet_jax.data.tiles import ImageData, TiledJpeg, cut_tiles

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Workers are as many as there are cores already.
cv2.setNumThreads(1)

# What Pillow takes for a decompression bomb.
_MOST_PIXELS = 178_956_970


class UnreadableImageError(Exception):
    """An image file that is empty, cut short or of no known format."""


class Box(NamedTuple):
    """A part of an image, in its pixels; edges may lie between two pixels."""

    left: float
    top: float
    right: float
    bottom: float


def decode(data: ImageData, factor: int = 1) -> np.ndarray:
    """The pixels of an image file, (height, width, 3) uint8 RGB; its EXIF orientation is ignored, as ImageNet's is.

    JPEG goes through simplejpeg (2.3 times as fast as Pillow). Pillow reads what that does not: PNG, CMYK, JPEGs with
    recoverable errors.

    Args:
      data: of a file in any format that Pillow knows, or in tiles, or pixels already, which are returned.
      factor: 1, 2, 4 or 8: a JPEG may come out this many times smaller, rounded up, which is faster; other formats
        come out whole.

    Raises:
      UnreadableImageError: the data are no image, or not all of one.
    """
    if isinstance(data, np.ndarray):
        return data
    if isinstance(data, TiledJpeg):
        data = data.data
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(int(height), int(width))
        if color in ("YCbCr", "Gray", "RGB"):
            least = (-(-int(height) // factor), -(-int(width) // factor)) if factor > 1 else (0, 0)
            return simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
    except ValueError:
        pass
    return _decode_slowly(data)


def _decode_slowly(data: bytes) -> np.ndarray:
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _check_size(opened.height, opened.width)
            if opened.mode in ("I", "F"):
                raise UnreadableImageError("its pixels are 32-bit numbers, whose black and white nobody knows")
            # Pillow cuts 16-bit grey at 255 instead of scaling it.
            shown = opened.point(lambda value: value / 256) if opened.mode.startswith("I;16") else opened
            # A palette's transparency has no place in RGB, and Pillow warns where it is lost.
            shown = shown.convert("RGBA") if "transparency" in opened.info else shown
            return np.asarray(shown.convert("RGB"))
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("it is in no image format that can be read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(str(error)) from error


def image_size(data: ImageData) -> tuple[int, int]:
    """(height, width) of an image, from its header alone.

    Raises:
      UnreadableImageError: see `decode`.
    """
    if isinstance(data, np.ndarray):
        return data.shape[0], data.shape[1]
    if isinstance(data, TiledJpeg):
        data = data.data
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        return int(height), int(width)
    except ValueError:
        pass
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return opened.height, opened.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return _decode_slowly(data).shape[:2]  # its errors say what is wrong


def _check_size(height: int, width: int) -> None:
    if height * width > _MOST_PIXELS:
        raise UnreadableImageError(f"{width} x {height} pixels are more than any photograph has")


def resample(image: np.ndarray, box: Box, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resizes a part of an image, in one antialiased resampling that reads no pixel which the part does not need.

    It equals resizing the whole image and cutting the window out, but for the rounding of a pixel.

    Args:
      image: (height, width, 3) uint8.
      box: the part.
      size: (height, width) of the result.
      interpolation: "bilinear" or "bicubic".
    """
    height, width = size
    resized = Image.fromarray(image).resize((width, height), INTERPOLATIONS[interpolation], box=box)
    return np.asarray(resized)


def read_window(data: ImageData, choose: Callable[[int, int], Box], side: int) -> np.ndarray:
    """A training window of an image, (side, side, 3) uint8: decoded no larger than it needs, and resized once, fast.

    Edges are rounded to whole pixels, and pixels are interpolated linearly, without antialiasing, as input pipelines of
    TensorFlow do: where a window shrinks to a half or less, the decoder or an average over areas has shrunk it before.
    On ImageNet's photographs at 224 pixels that is 0.3 to 1.4 grey levels from Pillow's antialiased resizing, which
    takes half as long again as all of this; at 48 pixels it is 4 (measured).

    Args:
      data: see `decode`.
      choose: (height, width) of the whole image -> the part to show.
      side: of the window.

    Raises:
      UnreadableImageError: see `decode`.
    """
    height, width = image_size(data)
    left, top, right, bottom = (round(edge) for edge in choose(height, width))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    shrinks = min(right - left, bottom - top) / side
    factor = next((factor for factor in (8, 4, 2) if shrinks >= factor), 1)
    if isinstance(data, TiledJpeg):
        data, across, down = cut_tiles(data, left, top, right, bottom, factor)
        left, top, right, bottom = left - across, top - down, right - across, bottom - down
        height, width = image_size(data)
    image = decode(data, factor)
    if image.shape[:2] != (height, width):
        left, top, right, bottom = left // factor, top // factor, -(-right // factor), -(-bottom // factor)
        shrinks /= factor
    averages = cv2.INTER_AREA if shrinks >= 2 else cv2.INTER_LINEAR
    return cv2.resize(image[top:bottom, left:right], (side, side), interpolation=averages)


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
        area = height * width * random.uniform(0.08, 1)
        aspect = math.exp(random.uniform(low, high))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(random.integers(height - tall, endpoint=True))
            left = int(random.integers(width - wide, endpoint=True))
            return Box(left, top, left + wide, top + tall)
    wide, tall = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - wide) // 2, (height - tall) // 2
    return Box(left, top, left + wide, top + tall)


def resized_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """(height, width) of an image whose shorter side becomes `shorter_side`; the longer one is rounded down, as in
    torchvision.
    """
    if height <= width:
        return shorter_side, shorter_side * width // height
    return shorter_side * height // width, shorter_side


def center_window(height: int, width: int, shorter_side: int, size: tuple[int, int]) -> Box:
    """The centre crop of section 3.4: the shorter side becomes `shorter_side`, then the central `size` is cut."""
    resized = resized_size(height, width, shorter_side)
    # Rounded as in torchvision: half to even.
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    return _window(height, width, resized, top, left, *size)


def corner_windows(height: int, width: int, shorter_side: int, size: tuple[int, int]) -> list[Box]:
    """The five windows of the ten-crop: top left, top right, bottom left, bottom right, and the centre."""
    resized = resized_size(height, width, shorter_side)
    low, far = resized[0] - size[0], resized[1] - size[1]
    corners = [(0, 0), (0, far), (low, 0), (low, far)]
    boxes = [_window(height, width, resized, top, left, *size) for top, left in corners]
    return [*boxes, center_window(height, width, shorter_side, size)]


def _window(height: int, width: int, resized: tuple[int, int], top: int, left: int, tall: int, wide: int) -> Box:
    """A window of the resized image, in pixels of the whole one."""
    down, across = height / resized[0], width / resized[1]
    return Box(left * across, top * down, min((left + wide) * across, width), min((top + tall) * down, height))
