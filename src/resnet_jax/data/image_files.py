"""Image files as Pillow opens them: which formats are images, what of a file its pixels depend on, and how its camera
was held. This file alone knows Pillow's readers.
"""

import contextlib
import functools
import io
import re
import struct
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

# Formats of Pillow's that are not read: documents and drawings (EPS is a program, which Ghostscript would run),
# videos, icons, measured data, and records without pixels.
_NOT_READ = {"BUFR", "CUR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MCIDAS", "MPEG", "PALM"}
_NOT_READ |= {"PDF", "SPIDER", "WMF", "XVTHUMB"}

# Pillow's plugin for them is a package of its own.
HEIF_SUFFIXES = (".heic", ".heif", ".hif")

_ORIENTATION = 274


class UnreadableImageError(Exception):
    """An image file that is empty, cut short, damaged or of no known format."""


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Makes whatever a decoder raises for damaged bytes an UnreadableImageError: any error but MemoryError."""
    try:
        yield
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error


class UprightFile(bytes):
    """The bytes of a user's own image: only these are turned as their EXIF orientation says, wherever it is decoded."""


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of image files that can be read, in lower case; those of HEIF where pillow-heif is installed."""
    found = Image.registered_extensions().items()
    read = {suffix for suffix, name in found if (name in Image.OPEN or name == "MPO") and name not in _NOT_READ}
    return frozenset(read | set(HEIF_SUFFIXES if _heif() else ()))


@functools.cache
def _heif() -> Callable[..., Image.Image] | None:
    """The reader of pillow-heif, used as it is: registering it would change Pillow for the whole process."""
    try:
        from pillow_heif import HeifImageFile  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return HeifImageFile


def open_image(data: bytes) -> Image.Image:
    """Opens an image file, of which nothing is decoded yet; an UnreadableImageError where it is in no known format, or
    damaged where it says how large it is.

    `Image.open` reads what the pixels do not depend on, and finds a PNG with a megabyte of text damaged; it limits the
    number of pixels, which is the caller's concern here; and it opens programs and videos.
    """
    with one_error():
        opened = _open(_without_metadata(data))
        if opened.format == "TIFF":  # Pillow would turn it while it loads it, as XMP says where EXIF does not
            opened.getexif()[_ORIENTATION] = 1
        return opened


def _open(data: bytes) -> Image.Image:
    Image.preinit()
    Image.init()
    start = data[:16]
    heif = _heif()
    if heif is not None and start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"avis"):
        with contextlib.suppress(SyntaxError):
            return heif(io.BytesIO(data), "")
    for name in Image.ID:
        if name in _NOT_READ:
            continue
        reader, accepts = Image.OPEN[name]
        # So many errors mean that the file is in another format.
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            accepted = accepts is None or accepts(start)
            # In place of False, some say in words why not.
            if accepted and not isinstance(accepted, str):
                return reader(io.BytesIO(data), "")
    raise UnreadableImageError("it is in no image format that can be read")


_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def _without_metadata(data: bytes) -> bytes:
    """A PNG, JPEG, TIFF or AVIF without what its pixels do not depend on: text, colour profiles, EXIF, previews."""
    view = memoryview(data)  # copied once, and not piece by piece
    if data.startswith(_PNG):
        # Chunks that a reader may skip have a small letter first; tRNS says which colours are transparent.
        kept = (view[begin:end] for name, begin, end in _chunks(data) if name[:1].isupper() or name == b"tRNS")
        return b"".join((_PNG, *kept))
    if data.startswith(_JPEG):
        kept, end = [], 2
        for marker, begin, end in jpeg_segments(data):
            # Of what applications wrote (APP0 to APP15) JFIF's and Adobe's segments say what the channels are, unless
            # they are too short; 0xFE are comments.
            if end - begin >= 16 if marker in (0xE0, 0xEE) else marker != 0xFE and not 0xE0 <= marker <= 0xEF:
                kept.append(view[begin:end])
        return b"".join((_JPEG, *kept, view[end:]))
    if found := _orientation_in(data):  # of a TIFF Pillow would say what size it had if it were turned
        changed = bytearray(data)
        struct.pack_into(found[1], changed, found[0], 1)
        return bytes(changed)
    # EXIF, an item of AVIF like any other, becomes one of a type that nobody knows.
    return _EXIF_ITEM.sub(rb"\1None", data, 1) if data[4:8] == b"ftyp" else data


_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of each chunk of a PNG; the last one may be cut short."""
    at = len(_PNG)
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        yield name, at, min(at + 12 + length, len(data))
        at += 12 + length


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of each segment of a JPEG before its pixels, as far as they are whole."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 4:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in (0xDA, 0xFF) or length < 2 or at + 2 + length > len(data):
            return
        yield marker, at, at + 2 + length
        at += 2 + length


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1, which is upright, where it has none that can be read."""
    try:
        if data.startswith(_JPEG):
            found = _orientation_of_jpeg(data)
        else:
            if data.startswith(_PNG):  # Pillow would decode it to look for what is behind its pixels
                data = b"".join((_PNG, *(data[begin:end] for name, begin, end in _chunks(data) if name != b"IDAT")))
            found = Image.Image.getexif(_open(data)).get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # whatever is wrong with it, its pixels are none the worse
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _orientation_of_jpeg(data: bytes) -> int | None:
    """The orientation in EXIF or XMP, without Pillow, which would read all of it, in 200 microseconds."""
    payloads = [data[begin + 4 : end] for marker, begin, end in jpeg_segments(data) if marker == 0xE1]
    # Longer than a segment, EXIF goes on in the next.
    exif = b"".join(each[6:] for each in payloads if each.startswith(b"Exif\0\0"))
    if found := _orientation_in(exif):
        return struct.unpack_from(found[1], exif, found[0])[0]
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', b"".join(payloads))
    return int(match[1]) if match else None


def _orientation_in(exif: bytes) -> tuple[int, str] | None:
    """Where the orientation stands in the first directory of EXIF, or of a TIFF, and in which format of `struct`."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
        if tag == _ORIENTATION and kind in (1, 3, 4):
            return entry + 8, order + {1: "B", 3: "H", 4: "I"}[kind]
    return None


# Of each orientation: whether rows and columns change places, and whether then the order of the rows and of the columns
# is reversed, to make an image upright.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (height, width, channels) as an EXIF orientation says."""
    if orientation == 1:
        return image
    swapped, rows, columns = _TURNS[orientation]
    image = cv2.transpose(image) if swapped else image  # several times as fast as NumPy's
    if not (rows or columns):
        return image
    return cv2.flip(image, -1 if rows and columns else 0 if rows else 1)


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) of an image that was turned; the same turn leads back."""
    return (width, height) if _TURNS[orientation][0] else (height, width)


def stored_window(
    left: int, top: int, right: int, bottom: int, height: int, width: int, orientation: int
) -> tuple[int, int, int, int]:
    """A window of an upright image of (height, width), in the pixels of its file: (left, top, right, bottom)."""
    swapped, rows, columns = _TURNS[orientation]
    if rows:
        top, bottom = height - bottom, height - top
    if columns:
        left, right = width - right, width - left
    return (top, left, bottom, right) if swapped else (left, top, right, bottom)
