"""JPEG in tiles: restart markers make parts of a photograph decodable on their own, so that a window of it costs little
more than the pixels under it.

Behind a restart marker nothing depends on what was before: a stretch of blocks between two markers, a tile, can be cut
out of the file, and tiles that make a rectangle are a smaller JPEG with the same header. `data.decode` decodes it.
"""

import io
import itertools
import re
import struct
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from resnet_jax.data.image_files import jpeg_segments, open_image

# A tile has at least so many blocks of JPEG's (MCUs) in a row, and at most twice as many, or the whole row of them. Of
# ImageNet's photographs, 868 common and 1,109 paper's windows a second and core are read with 4; 831 and 1,051 with 8;
# 841 and 1,112 with 2, from files that are 3 % larger (measured).
_LEAST_BLOCKS = 4

_RESTARTS = [bytes((0xFF, 0xD0 + i)) for i in range(8)]
_ENDS = re.compile(b"\xff[\xd0-\xd7\xd9]")

# Samplings that Pillow can write, by those of the three components.
_SAMPLINGS: dict[object, int] = {((1, 1), (1, 1), (1, 1)): 0, ((2, 1), (1, 1), (1, 1)): 1, ((2, 2), (1, 1), (1, 1)): 2}


class TiledJpeg(NamedTuple):
    """A JPEG file, and where in it each tile begins, row by row, and the last one has ended: (tiles + 1,) int32."""

    data: bytes
    tiles: np.ndarray


# What an image can come as: a file, pixels already ((height, width, 3) uint8), or a JPEG in tiles.
ImageData = bytes | np.ndarray | TiledJpeg


class _Layout(NamedTuple):
    """Of a JPEG: where its height and width stand, where the coded blocks begin, and sizes in pixels."""

    size_at: int
    start: int
    tile_height: int
    tile_width: int
    height: int
    width: int


def _layout(data: bytes) -> _Layout:
    end, interval, size_at, samplings = 2, 0, 0, b""
    for marker, begin, end in jpeg_segments(data):
        if marker in (0xC0, 0xC1):
            size_at, samplings = begin + 5, data[begin + 11 : end : 3]
        elif marker == 0xDD:
            (interval,) = struct.unpack_from(">H", data, begin + 4)
    if not interval or not samplings:
        raise ValueError("it is no sequential JPEG with restart markers")
    # The blocks of a single component are 8 x 8 pixels, whatever its sampling is said to be.
    samplings = samplings if len(samplings) > 1 else b"\x11"
    block_height, block_width = (8 * max(each >> bits & 15 for each in samplings) for bits in (0, 4))
    height, width = struct.unpack_from(">HH", data, size_at)
    start = end + 2 + int.from_bytes(data[end + 2 : end + 4])  # behind the header of the scan
    return _Layout(size_at, start, block_height, interval * block_width, height, width)


def find_tiles(data: bytes) -> TiledJpeg:
    """A JPEG with its tiles; a ValueError where no restart markers divide each row of blocks equally."""
    layout = _layout(data)
    tiles = np.array([layout.start, *(end.end() for end in _ENDS.finditer(data, layout.start))], np.int32)
    rows, columns = -(-layout.height // layout.tile_height), -(-layout.width // layout.tile_width)
    if len(tiles) != rows * columns + 1:
        raise ValueError("its restart markers do not divide the rows of blocks")
    return TiledJpeg(data, tiles)


def encode_tiles(image: np.ndarray, quality: int, original: bytes | None) -> TiledJpeg:
    """Writes an image, (height, width, 3) uint8 RGB, as a JPEG in tiles, with chroma at full resolution.

    Where `original`, the file that it was decoded from, is a JPEG, its quantisation and its sampling are kept, whatever
    `quality` is (1 to 100): hardly anything is lost a second time, and nothing grows.
    """
    shown, options = Image.fromarray(image), {"quality": quality, "subsampling": 0}
    if original is not None:
        opened: Any  # a JpegImageFile, where it is a JPEG
        with open_image(original) as opened:
            if opened.format == "JPEG" and opened.mode in ("RGB", "L"):
                layers = tuple(tuple(layer[1:3]) for layer in opened.layer)
                # Samplings that Pillow cannot write become finer ones.
                options = {"qtables": opened.quantization, "subsampling": _SAMPLINGS.get(layers, 0)}
                shown = shown.convert(opened.mode)
    sampling = options["subsampling"] if shown.mode == "RGB" else 0
    columns = -(-shown.width // (8 if sampling == 0 else 16))
    several = (count for count in range(_LEAST_BLOCKS, 2 * _LEAST_BLOCKS + 1) if columns % count == 0)
    options["restart_marker_blocks"] = next(several, columns)
    file = io.BytesIO()
    try:
        shown.save(file, "JPEG", optimize=True, **options)  # 5 % smaller
    except OSError:  # the buffer that Pillow gives the optimiser is too small for noise
        file = io.BytesIO()
        shown.save(file, "JPEG", **options)
    return find_tiles(file.getvalue())


def cut_tiles(tiled: TiledJpeg, left: int, top: int, right: int, bottom: int, factor: int) -> tuple[bytes, int, int]:
    """A smaller JPEG that holds a window of a tiled one, and the pixel of the whole where it begins: left, top.

    Decoded at 1 / `factor` of its size, 1, 2, 4 or 8, it has under the window the pixels of the whole one decoded so,
    bit for bit. The window is in pixels of the whole.
    """
    data, tiles = tiled
    layout = _layout(data)
    tall, wide = layout.tile_height, layout.tile_width
    rows, columns = -(-layout.height // tall), -(-layout.width // wide)
    # Where chroma is coarser, decoders interpolate it between neighbours: a window's last pixel may need the next one.
    column0, column1 = max(left - factor, 0) // wide, min(-(-(right + factor) // wide), columns)
    row0, row1 = max(top - factor, 0) // tall, min(-(-(bottom + factor) // tall), rows)
    left, right = column0 * wide, min(column1 * wide, layout.width)
    top, bottom = row0 * tall, min(row1 * tall, layout.height)
    size = struct.pack(">HH", bottom - top, right - left)
    parts, restarts = (
        [data[: layout.size_at], size, data[layout.size_at + 4 : layout.start]],
        itertools.cycle(_RESTARTS),
    )
    for row in range(row0, row1):
        edges = tiles[row * columns + column0 : row * columns + column1 + 1].tolist()
        for begin, end in itertools.pairwise(edges):
            parts += data[begin : end - 2], next(restarts)
    parts[-1] = b"\xff\xd9"
    return b"".join(parts), left, top
