"""Every format that Pillow writes here, damaged in every way: one error says so, or the pixels are shown."""

import numpy as np
import pytest
from pictures import encoded, exif, smooth
from PIL import Image

from resnet_jax.data import decode, image_files
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.windows import Box


def writable():
    """Formats that Pillow writes and that are read here, each with pixels of a mode that it can have."""
    Image.init()
    for name in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in ("RGB", "L", "1", "P"):
            try:
                data = encoded(Image.fromarray(smooth(24, 33)).convert(mode), name)
            except (OSError, ValueError, NotImplementedError, ImportError, DeprecationWarning):
                continue
            try:
                decode.decode(data)
            except UnreadableImageError:
                break  # a format of no photographs
            yield name, data
            break


FORMATS = dict(writable()) | {
    "TIFF, LZW": encoded(smooth(24, 33), "TIFF", compression="tiff_lzw"),
    "TIFF, oriented": encoded(smooth(24, 33), "TIFF", **exif(6)),
    "AVIF, oriented": encoded(smooth(24, 33), "AVIF", **exif(6)),
    "PNG, oriented": encoded(smooth(24, 33), "PNG", **exif(6)),
    "WebP, oriented": encoded(smooth(24, 33), "WEBP", **exif(6)),
    "JPEG, oriented": encoded(smooth(24, 33), "JPEG", **exif(6)),
    "CMYK": encoded(Image.fromarray(smooth(40, 64)).convert("CMYK"), "JPEG"),
}


def test_many_formats_are_read():
    assert set(FORMATS) >= {"AVIF", "BMP", "DDS", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA"}
    assert set(FORMATS) >= {"TIFF", "WEBP"}
    # A program that Ghostscript would run, a document, an icon.
    assert not {"EPS", "PDF", "ICO"} & set(FORMATS)
    assert {".jpg", ".jfif", ".jpe", ".avif", ".mpo", ".png", ".tiff", ".webp"} <= image_files.suffixes()
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".ico", ".emf"} & image_files.suffixes()


def damaged(data, count):
    """Copies of a file, in each a byte changed; of some the end is cut off, or a piece."""
    random = np.random.default_rng(0)
    for number in range(count):
        changed = bytearray(data)
        # Every other change is in what comes first, which says the most.
        changed[random.integers(len(data) if number % 2 else min(len(data), 200))] = random.integers(256)
        if number % 5 == 0:
            del changed[random.integers(len(data)) :]
        if number % 7 == 0:
            start = random.integers(len(data))
            del changed[start : start + random.integers(1, 20)]
        yield bytes(changed)


def check_damage(data, count):
    """Every copy is an image, or is unreadable; how many are."""
    messages = []
    for changed in map(UprightFile, damaged(data, count)):
        try:
            height, width = decode.size_of(changed)
            if height * width < 1_000_000:
                image = decode.decode(changed)
                assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
                for part in (1, 0.4):
                    window = decode.read_window(
                        changed, lambda height, width, part=part: Box(0, 0, width, part * height), 8
                    )
                    assert window.shape == (8, 8, 3)
        except UnreadableImageError as error:
            messages.append(str(error))
    assert all(message and "\n" not in message for message in messages)
    return len(messages)


# Pillow warns of damaged tags.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_is_wrong_with_a_file_one_error_says_so(kind):
    assert 0 < check_damage(FORMATS[kind], 70) < 70


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_much_that_can_be_wrong_with_a_file(kind):
    assert 100 < check_damage(FORMATS[kind], 2_500) < 2_500
