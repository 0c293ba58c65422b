"""From an image file's bytes to the window of it that a network sees: host work, NumPy in and out, no JAX."""

import contextlib
import math
import struct
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from resnet_jax.data.image_files import (
    UnreadableImageError,
    UprightFile,
    jpeg_segments,
    one_error,
    open_image,
    orientation,
    stored_window,
    upright,
    upright_size,
)
from resnet_jax.data.tiles import ImageData, TiledJpeg, cut_tiles
from resnet_jax.data.windows import Box

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Pixels that an image may have: a JPEG, of which no more than `_MOST_DECODED` are decoded, and any other one, which
# takes 7 bytes for each while it is decoded.
_MOST_JPEG_PIXELS, _MOST_PIXELS = 2**30, 2**28

# A JPEG of more pixels is decoded at a half, a quarter or an eighth: 200 megapixels would take 600 MB in each thread.
_MOST_DECODED = 178_956_970


def decode(data: ImageData, factor: int = 1) -> np.ndarray:
    """The pixels of an image file, (height, width, 3) uint8 RGB; the EXIF orientation is applied to an `UprightFile`.

    JPEG goes through simplejpeg (2.3 times as fast as Pillow). Pillow reads what that does not: PNG, CMYK, JPEGs with
    recoverable errors.

    Args:
      data: of a file in any format that Pillow knows, or in tiles, or pixels already, which are returned.
      factor: 1, 2, 4 or 8: a JPEG may come out this many times smaller, rounded up, which is faster; other formats
        come out whole. A JPEG of more than 179 megapixels comes out at a half at most.

    Raises:
      UnreadableImageError: the data are no image, or not all of one.
    """
    if isinstance(data, np.ndarray):
        return data
    file = data.data if isinstance(data, TiledJpeg) else data
    pixels = _decode_stored(file, factor)
    return upright(pixels, orientation(file)) if isinstance(file, UprightFile) else pixels


def _decode_stored(data: bytes, factor: int) -> np.ndarray:
    """The pixels as the file has them, whatever its orientation."""
    with contextlib.suppress(ValueError):
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
        if color in ("YCbCr", "Gray", "RGB"):
            height, width = int(height), int(width)
            _check_size(height, width, _MOST_JPEG_PIXELS)
            factor = _reduction(height, width, factor)
            least = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
            return simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
    return _decode_slowly(data)


def _decode_upper(data: bytes, bottom: int, factor: int) -> np.ndarray | None:
    """The rows of a JPEG above `bottom`, and a few more, (rows, width, 3); None where it must be decoded whole.

    They are those of the whole image bit for bit: a header that says fewer rows ends the decoder's work. Windows of
    ImageNet's photographs are read 1.09 to 1.20 times as fast (measured).

    `bottom` is in pixels of the whole image; `factor` is as of `decode`.
    """
    size_at, components, scan = 0, b"", 2
    for marker, begin, scan in jpeg_segments(data):  # noqa: B007 (where the last one ends, the scan begins)
        if marker in (0xC0, 0xC1):
            size_at, components = begin + 5, data[begin + 9 : begin + 10]
        elif marker == 0xDD:  # restart markers: the decoder would look for them below, and take their rest for damage
            return None
    # CMYK is Pillow's. Of a progressive file, and of one with a scan for each channel, a row's blocks lie apart.
    if (
        components not in (b"\1", b"\3")
        or data[scan : scan + 2] + data[scan + 4 : scan + 5] != b"\xff\xda" + components
    ):
        return None
    height, width = struct.unpack_from(">HH", data, size_at)
    rows = bottom + 2 * factor  # where chroma is coarser, the decoder interpolates it between neighbours
    if rows >= height or height * width > _MOST_JPEG_PIXELS:
        return None
    image = np.empty((-(-rows // factor), -(-width // factor), 3), np.uint8)
    least = image.shape[:2] if factor > 1 else (0, 0)
    shorter = b"".join((data[:size_at], struct.pack(">H", rows), memoryview(data)[size_at + 2 :]))
    try:
        simplejpeg.decode_jpeg(shorter, "RGB", min_height=least[0], min_width=least[1], buffer=image)
    except ValueError as error:
        # It tells of the first thing that it finds wrong. This is the blocks below, and all rows are there by then; a
        # file whose end is missing is found to be damaged here too.
        if not str(error).endswith("extraneous bytes before marker 0xd9"):
            return None
    return image


def _reduction(height: int, width: int, factor: int) -> int:
    """The factor at which a JPEG is decoded: the given one, or the next at which there is memory for its pixels."""
    while factor < 8 and -(-height // factor) * -(-width // factor) > _MOST_DECODED:
        factor *= 2
    return factor


def _decode_slowly(data: bytes) -> np.ndarray:
    if not data:
        raise UnreadableImageError("the file is empty")
    with one_error(), open_image(data) as opened:
        _check_size(opened.height, opened.width, _MOST_PIXELS)
        if opened.mode in ("I", "F"):
            raise UnreadableImageError("its pixels are 32-bit numbers, whose black and white nobody knows")
        if opened.format == "TIFF" and opened.height * opened.width > (Image.MAX_IMAGE_PIXELS or math.inf):
            # Where there is memory for the pixels already, Pillow does not compare their number with its own limit.
            opened.im = Image.new(opened.mode, opened.size).im
        # Pillow cuts 16-bit grey at 255 instead of scaling it.
        shown = opened.point(lambda value: value / 256) if opened.mode.startswith("I;16") else opened
        # A palette's transparency has no place in RGB, and Pillow warns where it is lost.
        shown = shown.convert("RGBA") if "transparency" in opened.info else shown
        return np.asarray(shown.convert("RGB"))


def size_of(data: ImageData) -> tuple[int, int]:
    """(height, width) of an image, from its header alone, turned as `decode` turns it; errors as of that."""
    if isinstance(data, np.ndarray):
        return data.shape[0], data.shape[1]
    file = data.data if isinstance(data, TiledJpeg) else data
    try:
        height, width = map(int, simplejpeg.decode_jpeg_header(file)[:2])
    except ValueError:
        try:
            with open_image(file) as opened:
                height, width = opened.height, opened.width
        except UnreadableImageError:
            height, width, _ = _decode_slowly(file).shape  # its errors say what is wrong
    return upright_size(height, width, orientation(file)) if isinstance(file, UprightFile) else (height, width)


def _check_size(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise UnreadableImageError(f"{width} x {height} are more pixels than can be decoded")


def resample(image: np.ndarray, box: Box, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """A part of an image, (height, width, 3) uint8, at another `size`: (*size, 3), "bilinear" or "bicubic".

    It is one antialiased resampling, and equals resizing the whole image and cutting the window out, but for the
    rounding of a pixel.
    """
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), INTERPOLATIONS[interpolation], box=box))


def read_window(data: ImageData, choose: Callable[[int, int], Box], image_size: int) -> np.ndarray:
    """A training window of an image, (image_size, image_size, 3) uint8: decoded no larger than it needs, resized once.

    Edges are rounded to whole pixels, and pixels are interpolated linearly, without antialiasing, as input pipelines of
    TensorFlow do: where a window shrinks to a half or less, the decoder or an average over areas has shrunk it before.
    On ImageNet's images at 224 pixels that is 0.3 to 1.4 grey levels from Pillow's antialiased resizing, which takes
    half as long again as all of this; at 48 pixels it is 4 (measured).

    `choose` is given (height, width) of the whole image, upright, and says which part to show. Errors as of `decode`.
    """
    # The small window is turned, and not the whole image.
    turn = 1
    if isinstance(data, UprightFile):
        turn, data = orientation(data), bytes(data)
    height, width = upright_size(*size_of(data), turn)
    left, top, right, bottom = (round(edge) for edge in choose(height, width))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    shrinks = min(right - left, bottom - top) / image_size
    left, top, right, bottom = stored_window(left, top, right, bottom, height, width, turn)
    height, width = upright_size(height, width, turn)
    factor = _reduction(height, width, next((factor for factor in (8, 4, 2) if shrinks >= factor), 1))
    if isinstance(data, TiledJpeg):
        data, across, down = cut_tiles(data, left, top, right, bottom, factor)
        left, top, right, bottom = left - across, top - down, right - across, bottom - down
        height, width = size_of(data)
        image = decode(data, factor)
    else:
        upper = _decode_upper(data, bottom, factor) if isinstance(data, bytes) else None
        image = decode(data, factor) if upper is None else upper
    if image.shape[1] != width:
        left, top, right, bottom = left // factor, top // factor, -(-right // factor), -(-bottom // factor)
        shrinks /= factor
    averages = cv2.INTER_AREA if shrinks >= 2 else cv2.INTER_LINEAR
    window = cv2.resize(image[top:bottom, left:right], (image_size, image_size), interpolation=averages)
    return upright(window, turn)
