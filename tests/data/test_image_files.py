"""Files as people have them: turned cameras, much metadata, many formats, and every kind of damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, exif, noise, pillows, smooth
from PIL import Image, ImageOps, TiffImagePlugin

from resnet_jax.data import decode, image_files, windows
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.windows import Box

IMAGE = smooth(40, 64)


# ---- Orientation

ORIENTED = {
    "JPEG": ("JPEG", {"quality": 95}),
    "two pictures in a JPEG": ("MPO", {"quality": 95}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {"quality": 95}),
    "TIFF": ("TIFF", {}),
    "LZW TIFF": ("TIFF", {"compression": "tiff_lzw"}),
}


@pytest.mark.parametrize("kind", ORIENTED)
def test_a_users_photograph_is_upright_and_imagenets_is_not(kind):
    file_format, options = ORIENTED[kind]
    stored = decode.decode(encoded(IMAGE, file_format, **options))
    for orientation in range(1, 9):
        data = encoded(IMAGE, file_format, **options, **exif(orientation))
        # What Pillow's own function makes of it, which Pillow applies to a TIFF itself.
        with Image.open(io.BytesIO(data)) as opened:
            upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        assert upright.shape == ((40, 64, 3) if orientation < 5 else (64, 40, 3))
        for given, expected in ((data, stored), (UprightFile(data), upright)):
            np.testing.assert_array_equal(decode.decode(given), expected)
            assert decode.size_of(given) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [9, 30, 50])
def test_windows_are_chosen_in_the_upright_image(orientation, side):
    data = UprightFile(encoded(IMAGE, "PNG", **exif(orientation)))
    upright, sizes = decode.decode(data), []
    box = Box(3.2, 5.1, upright.shape[1] - 8.7, upright.shape[0] - 1)

    def choose(height, width):
        sizes.append((height, width))
        return box

    window = decode.read_window(data, choose, side)
    assert sizes == [upright.shape[:2]]
    # Rounding of a pixel depends on the direction.
    assert np.abs(window - decode.read_window(upright, choose, side).astype(int)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_decoded_no_larger_than_its_window_needs(orientation, monkeypatch):
    image = smooth(401, 517)
    data = UprightFile(encoded(image, "JPEG", quality=95, **exif(orientation)))
    upright = decode.decode(data)
    box = Box(21, 33, 21 + 330, 33 + 340)
    shapes = []
    read = decode._decode_upper
    monkeypatch.setattr(decode, "_decode_upper", lambda *given: (shapes.append(read(*given).shape), read(*given))[1])
    window = decode.read_window(data, lambda *_: box, 40)
    # The file has 401 rows; in it the window ends here.
    bottom = {1: 373, 2: 373, 3: 368, 4: 368, 5: 351, 6: 380, 7: 380, 8: 351}[orientation]
    assert shapes == [(-(-(bottom + 16) // 8), 65, 3)]
    exact = Image.fromarray(upright).resize((40, 40), Image.Resampling.BOX, box=box)
    assert np.abs(window - np.asarray(exact, int)).mean() < 5


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG, JPEG = encoded(IMAGE, "PNG"), encoded(IMAGE, "JPEG")


def in_png(*chunks):
    """With chunks behind its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def in_jpeg(*segments, jpeg=JPEG):
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


TIFF_OF_6 = exif(6)["exif"].tobytes()
XMP = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    "data",
    [
        in_png(
            chunk(b"tEXt", b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(TIFF_OF_6), TIFF_OF_6.hex().encode()))
        ),
        in_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        PNG[:-12] + chunk(b"eXIf", TIFF_OF_6.removeprefix(b"Exif\0\0")) + PNG[-12:],
        in_jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        in_jpeg(segment(0xE2, b"FPXR\0" + b"x" * 60000), segment(0xE1, TIFF_OF_6)),
    ],
    ids=["raw profile", "XMP in a PNG", "behind the pixels", "XMP in a JPEG", "behind another segment"],
)
def test_orientation_in_other_places(data):
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert expected.shape == (64, 40, 3)
    np.testing.assert_array_equal(decode.decode(UprightFile(data)), expected)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_orientation_in_the_xmp_of_a_tiff(compression):
    """Pillow applies it while it loads the file, in a way that nobody can turn off."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[700] = 1
    tags[700] = XMP
    data = encoded(IMAGE, "TIFF", tiffinfo=tags, compression=compression)
    for given, expected in ((data, IMAGE), (UprightFile(data), np.rot90(IMAGE, -1))):
        np.testing.assert_array_equal(decode.decode(given), expected)
        assert decode.size_of(given) == expected.shape[:2]


# ---- Pixels decide, and not metadata

MEBIBYTE = 2**20
BOMB = zlib.compress(bytes(70 * MEBIBYTE))
CMYK = encoded(Image.fromarray(IMAGE).convert("CMYK"), "JPEG")
WEBP = encoded(IMAGE, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(1000))
AVIF = encoded(IMAGE, "AVIF", quality=95, exif=exif(1)["exif"].tobytes().replace(b"\x01\x12", b"\x01\x0f"))
NOISY_PROFILE = noise(1200, 1000, 1).tobytes()

METADATA = {
    "text": in_png(chunk(b"tEXt", b"a\0" + b"x" * 2 * MEBIBYTE)),
    "compressed text": in_png(chunk(b"zTXt", b"a\0\0" + BOMB)),
    "international text": in_png(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "much text": in_png(*[chunk(b"tEXt", b"%d\0" % i + b"x" * 900_000) for i in range(76)]),
    "colour profile": in_png(chunk(b"iCCP", b"a\0\0" + zlib.compress(NOISY_PROFILE, 1))),
    "EXIF as text": in_png(chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)),
    "text with a wrong checksum": in_png(chunk(b"tEXt", b"a\0abc")[:-1] + b"?"),
    "no EXIF at all": in_png(chunk(b"eXIf", b"garbage")),
    "a short chunk": in_png(chunk(b"gAMA", b"a"), chunk(b"pHYs", b"a")),
    "text that is cut short": in_png()[:-12] + chunk(b"tEXt", b"a\0" + b"x" * 1000)[:500],
    "JPEG, EXIF": in_jpeg(segment(0xE1, b"Exif\0\0" + b"II*\0" + b"\xff" * 60_000)),
    "JPEG, many previews": in_jpeg(*[segment(0xE2, b"x" * 65_000) for _ in range(300)]),
    "CMYK, short JFIF": in_jpeg(segment(0xE0, b"JFIF\0\1"), jpeg=CMYK),
    "CMYK, short Adobe": in_jpeg(segment(0xEE, b"Adobe\0"), jpeg=CMYK),
    "CMYK, Photoshop": in_jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\4\x0c\0\0\xff\xff\xff\xff"), jpeg=CMYK),
    "CMYK, several pictures": in_jpeg(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\5\0"), jpeg=CMYK),
    "WebP, EXIF": WEBP,
    "AVIF, no EXIF at all": AVIF.replace(b"MM\0*", b"XXXX"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_make_no_photograph_unreadable(kind):
    lossless = {"PNG": IMAGE, "JPEG": pillows(in_jpeg()), "CMYK": pillows(CMYK), "WebP": IMAGE, "AVIF": pillows(AVIF)}
    expected = lossless.get(kind.split(",")[0], IMAGE)
    for data in (METADATA[kind], UprightFile(METADATA[kind])):
        np.testing.assert_array_equal(decode.decode(data), expected)
        assert decode.size_of(data) == (40, 64)


def test_what_the_pixels_of_a_png_depend_on_is_kept():
    palette = Image.fromarray(IMAGE).quantize(200)
    data = encoded(palette, "PNG", transparency=bytes(range(200)))
    np.testing.assert_array_equal(decode.decode(data), np.asarray(palette.convert("RGB")))


# ---- Size


def claiming(height, width):
    """A JPEG whose header says that it is larger than it is."""
    data = in_jpeg()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_a_photograph_of_200_megapixels_is_decoded_at_a_half(monkeypatch):
    """And at an eighth for a window; of a real one the memory is what counts, and of this one nothing is decoded."""
    data, asked = claiming(12_240, 16_320), []

    def note(data, space, min_height, min_width, buffer=None):
        asked.append((min_height, min_width))
        return np.zeros((min_height, min_width, 3), np.uint8)

    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", note)
    assert decode.decode(data).shape == (6_120, 8_160, 3)
    random = np.random.default_rng(0)
    decode.read_window(data, lambda *size: windows.scale_window(*size, random, (256, 480), 224), 224)
    decode.read_window(data, lambda *size: Box(0, 0, 16_320, 12_240), 10_000)
    # Of the window's eighth of 12,240 rows, those down to its end.
    assert asked == [(6_120, 8_160), (1_255, 2_040), (6_120, 8_160)]


def test_a_reduced_whole_is_shown_as_the_whole_is(monkeypatch):
    """The limit is lowered, so that a small JPEG is a large one."""
    data = encoded(smooth(123, 165), "JPEG", quality=95)
    box = Box(20, 30, 150, 120)
    whole, window = decode.decode(data), decode.read_window(data, lambda *_: box, 60)
    view = decode.resample(whole, windows.center_window(123, 165, 40, (32, 32)), (32, 32), "bilinear")
    monkeypatch.setattr(decode, "_MOST_DECODED", 123 * 165 // 2)
    half = decode.decode(data)
    assert half.shape == (62, 83, 3)
    reduced = decode.resample(half, windows.center_window(62, 83, 40, (32, 32)), (32, 32), "bilinear")
    assert np.abs(view - reduced.astype(int)).mean() < 1.5
    assert np.abs(window - decode.read_window(data, lambda *_: box, 60).astype(int)).mean() < 1.5


@pytest.mark.slow
def test_a_real_photograph_of_200_megapixels():
    plain = np.full((12_240, 16_320, 3), (40, 90, 200), np.uint8)
    data = decode.simplejpeg.encode_jpeg(plain, 90)
    del plain
    assert decode.size_of(data) == (12_240, 16_320)
    window = decode.read_window(data, lambda *size: windows.center_window(*size, 256, (224, 224)), 224)
    for image in (window, decode.decode(data)):
        assert np.abs(image[::50, ::50] - np.array((40, 90, 200))).max() <= 3


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "TIFF", "TIFF, LZW", "CMYK"])
def test_pillows_own_limit_is_not_ours(file_format, monkeypatch):
    """Beyond it Pillow warns, which is an error here, and beyond twice that it refuses; it is left as it is."""
    options = {"compression": "tiff_lzw"} if "LZW" in file_format else {}
    data = CMYK if file_format == "CMYK" else encoded(IMAGE, file_format.split(",")[0], **options)
    expected = decode.decode(data)
    for limit in (IMAGE.size // 3 - 1, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(decode.decode(data), expected)
        assert decode.size_of(data) == (40, 64)


class Exploding:
    def __init__(self, error):
        self.error = error

    def __call__(self, *_):
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), NotImplementedError(), KeyError("x"), RecursionError("deep\nest")]
)
def test_any_error_of_a_decoder_is_the_files(error, monkeypatch):
    monkeypatch.setattr(decode, "open_image", Exploding(error))
    with pytest.raises(UnreadableImageError, match=r"^[^\n]+$"):
        decode.decode(in_png())


def test_no_memory_is_no_damage(monkeypatch):
    monkeypatch.setattr(decode, "open_image", Exploding(MemoryError()))
    with pytest.raises(MemoryError):
        decode.decode(in_png())


# make test-all installs it.
@pytest.mark.slow
def test_a_format_of_apples_is_read_where_its_reader_is_installed():
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(IMAGE)).save(file, quality=100)
    assert np.abs(decode.decode(UprightFile(file.getvalue())) - IMAGE.astype(int)).mean() < 3
    assert ".heic" in image_files.suffixes()
    assert ".heic" not in Image.registered_extensions()
