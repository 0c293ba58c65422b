"""Image files, whole and damaged, against Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from pictures import encoded, noise, pillows, smooth
from PIL import Image

from resnet_jax.data import decode
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.windows import Box


@pytest.mark.test_data
def test_photographs_are_pillows_bit_for_bit(photograph_files):
    for data in photograph_files:
        assert np.array_equal(decode.decode(data), pillows(data))
        assert decode.size_of(data) == pillows(data).shape[:2]


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}, {"restart_marker_blocks": 2}],
    ids=str,
)
@pytest.mark.parametrize("side", [1, 7, 37])
def test_kinds_of_jpeg(options, side):
    data = encoded(noise(side, 51), "JPEG", **options)
    assert np.array_equal(decode.decode(data), pillows(data))


def palette_image(colors, indices, **info):
    image = Image.fromarray(indices, "L")
    image.putpalette(colors.tobytes())
    image.info.update(info)
    return image


COLORS, INDICES = noise(1, 200)[0], np.random.default_rng(1).integers(0, 200, (23, 31), dtype=np.uint8)
GREY, RGBA = noise(23, 31, 1)[..., 0], noise(23, 31, 4)
WIDE = np.random.default_rng(2).integers(0, 2**16, (23, 31), dtype=np.uint16)
EXACT = {
    "RGB PNG": (encoded(RGBA[..., :3].copy(), "PNG"), RGBA[..., :3]),
    "RGBA PNG": (encoded(RGBA, "PNG"), RGBA[..., :3]),
    "grey PNG": (encoded(GREY, "PNG"), GREY),
    "grey PNG with a transparent value": (encoded(GREY, "PNG", transparency=3), GREY),
    "two-colour PNG": (encoded(Image.fromarray(GREY > 99), "PNG"), 255 * (GREY > 99)),
    "16-bit PNG": (encoded(WIDE, "PNG"), WIDE >> 8),
    "palette PNG": (encoded(palette_image(COLORS, INDICES), "PNG"), COLORS[INDICES]),
    "palette PNG with a transparent colour": (
        encoded(palette_image(COLORS, INDICES), "PNG", transparency=7),
        COLORS[INDICES],
    ),
    "palette PNG with transparent colours": (
        encoded(palette_image(COLORS, INDICES), "PNG", transparency=bytes(range(200))),
        COLORS[INDICES],
    ),
    "GIF": (encoded(palette_image(COLORS, INDICES), "GIF"), COLORS[INDICES]),
    "BMP": (encoded(RGBA[..., :3].copy(), "BMP"), RGBA[..., :3]),
    "TIFF": (encoded(RGBA[..., :3].copy(), "TIFF", compression="tiff_lzw"), RGBA[..., :3]),
    "lossless WebP": (encoded(RGBA[..., :3].copy(), "WEBP", lossless=True), RGBA[..., :3]),
}


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_formats_give_back_what_was_written(kind):
    data, expected = EXACT[kind]
    image = decode.decode(data)
    assert image.dtype == np.uint8
    expected = np.broadcast_to(expected.reshape(23, 31, -1), (23, 31, 3))
    np.testing.assert_array_equal(image, expected)
    assert decode.size_of(data) == (23, 31)
    # A reduction is asked of JPEG only.
    np.testing.assert_array_equal(decode.decode(data, 8), expected)


def test_grey_and_cmyk_jpegs():
    grey = encoded(smooth(40, 60)[..., 0].copy(), "JPEG", quality=100)
    image = decode.decode(grey)
    assert image.shape == (40, 60, 3)
    assert np.ptp(image, axis=-1).max() == 0
    assert np.abs(image - smooth(40, 60)[..., :1].astype(int)).max() <= 2

    cmyk = encoded(Image.fromarray(smooth(40, 60)).convert("CMYK"), "JPEG", quality=100)
    with Image.open(io.BytesIO(cmyk)) as opened:
        assert opened.mode == "CMYK"
    image = decode.decode(cmyk)
    assert image.shape == (40, 60, 3)
    assert np.abs(image - smooth(40, 60).astype(int)).max() <= 3
    assert decode.size_of(cmyk) == (40, 60)


def test_pixels_are_returned():
    image = noise(5, 6)
    assert decode.decode(image, 8) is image
    assert decode.size_of(image) == (5, 6)


JPEG, PNG = encoded(noise(64, 48), "JPEG"), encoded(noise(64, 48), "PNG")


DAMAGED = {
    "nothing": (b"", "the file is empty"),
    "text": (b"no image at all\n" * 20, "in no image format that can be read"),
    "zeros": (b"\0" * 1000, "in no image format that can be read"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG without its end": (JPEG[:-200], "truncated"),
    "three bytes of a JPEG": (JPEG[:3], "in no image format that can be read"),
    "thirty bytes of a JPEG": (JPEG[:30], None),
    "the header of a JPEG": (JPEG[: JPEG.index(b"\xff\xda")], None),
    "half a PNG": (PNG[: len(PNG) // 2], "truncated"),
    "the beginning of a PNG": (PNG[:20], None),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(kind):
    data, message = DAMAGED[kind]

    def whole(height, width):
        return Box(0, 0, width, height)

    for read in (decode.decode, lambda data: decode.read_window(data, whole, 4)):
        with pytest.raises(UnreadableImageError, match=message) as error:
            read(data)
        assert str(error.value)
        assert "\n" not in str(error.value)


def test_a_jpeg_with_errors_that_can_be_mended_is_read():
    data = encoded(noise(33, 47), "JPEG")
    at = data.index(b"\xff\xda")
    data = data[:at] + b"\x12\x34" + data[at:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(data, "RGB")
    assert np.array_equal(decode.decode(data), pillows(data))


def huge_jpeg():
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", 60_000, 50_000) + JPEG[at + 4 :]


def huge_png():
    header = b"IHDR" + struct.pack(">II", 50_000, 60_000) + PNG[24:29]
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.mark.parametrize("data", [huge_jpeg(), huge_png()], ids=["JPEG", "PNG"])
def test_a_header_that_claims_three_billion_pixels_is_refused(data, monkeypatch):
    # Before there is memory for them.
    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableImageError, match=r"pixels"):
        decode.decode(data)
    with pytest.raises(UnreadableImageError, match=r"pixels"):
        decode.read_window(data, lambda *_: Box(0, 0, 60, 60), 4)


@pytest.mark.parametrize("pixels", [np.full((5, 7), 70_000, np.int32), np.full((5, 7), 0.5, np.float32)])
def test_pixels_of_unknown_range_are_refused(pixels):
    """Pillow would make the one all white and the other all black."""
    with pytest.raises(UnreadableImageError, match="32-bit numbers"):
        decode.decode(encoded(pixels, "TIFF"))
