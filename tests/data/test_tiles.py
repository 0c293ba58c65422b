"""Windows cut out of a JPEG against the same windows of the whole one, decoded by Pillow and by simplejpeg."""

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from resnet_jax.data.decode import decode, read_window, size_of
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping
from resnet_jax.data.tiles import TiledJpeg, cut_tiles, encode_tiles, find_tiles
from resnet_jax.data.windows import Box

# By name: OpenCV's constant, and the height and width of a block of JPEG's (MCU).
SAMPLINGS = {
    "4:4:4": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, 8, 8),
    "4:2:2": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, 8, 16),
    "4:2:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, 16, 16),
    "4:4:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, 16, 8),
    "4:1:1": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411, 8, 32),
    "grey": (None, 8, 8),
}


def pixels(height, width, seed=0):
    """Coloured noise over ramps: no two places look alike."""
    random = np.random.default_rng(seed)
    ramps = np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width), 99), -1) % 200
    return (ramps + random.integers(0, 56, (height, width, 3))).astype(np.uint8)


def written(image, sampling="4:2:0", interval=0):
    """A JPEG of OpenCV's, with a restart marker after each `interval` blocks."""
    factor = SAMPLINGS[sampling][0]
    options = [cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    options += [] if factor is None else [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    return cv2.imencode(".jpg", image[..., 0] if factor is None else image[..., ::-1], options)[1].tobytes()


def pillows(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def reduced(data, factor):
    height, width = size_of(data)
    return simplejpeg.decode_jpeg(data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor))


@pytest.mark.parametrize("sampling", SAMPLINGS)
# Blocks in a row divide by the interval; the second has odd sides, the last one tile to a row.
@pytest.mark.parametrize(("across", "interval", "odd"), [(6, 2, 0), (9, 3, 5), (7, 7, 3)])
def test_a_cut_decodes_to_the_window_bit_for_bit(sampling, across, interval, odd):
    _, tall, wide = SAMPLINGS[sampling]
    height, width = 7 * tall - odd, across * wide - odd
    data = written(pixels(height, width), sampling, interval)
    tiled = find_tiles(data)
    assert len(tiled.tiles) == 7 * across // interval + 1
    whole, random = pillows(data), np.random.default_rng(1)
    assert whole.shape == (height, width, 3)
    smaller = 0
    for _ in range(40):
        top, bottom = np.sort(random.choice(height + 1, 2, replace=False)).tolist()
        left, right = np.sort(random.choice(width + 1, 2, replace=False)).tolist()
        for factor in (1, 2, 4, 8):
            cut, across_, down = cut_tiles(tiled, left, top, right, bottom, factor)
            smaller += len(cut) < len(data)
            assert across_ % 8 == down % 8 == 0
            assert across_ <= left
            assert down <= top
            rows = slice((top - down) // factor, -(-(bottom - down) // factor))
            columns = slice((left - across_) // factor, -(-(right - across_) // factor))
            there = slice(top // factor, -(-bottom // factor)), slice(left // factor, -(-right // factor))
            if factor == 1:
                np.testing.assert_array_equal(pillows(cut)[rows, columns], whole[there])
            np.testing.assert_array_equal(reduced(cut, factor)[rows, columns], reduced(data, factor)[there])
    assert smaller > 40


def test_what_lies_beside_the_window_is_not_read():
    tiled = find_tiles(written(pixels(256, 256), "4:4:4", 4))
    cut, *_ = cut_tiles(tiled, 70, 70, 90, 90, 1)
    # 32 x 8 tiles, of 8 x 32 pixels each: those from row 8 to 11, in columns 2.
    spoiled = bytearray(tiled.data)
    for tile, (begin, end) in enumerate(zip(tiled.tiles[:-1], tiled.tiles[1:], strict=True)):
        if tile % 8 != 2 or not 8 <= tile // 8 <= 11:
            spoiled[begin : end - 2] = bytes(end - 2 - begin)
    assert cut_tiles(TiledJpeg(bytes(spoiled), tiled.tiles), 70, 70, 90, 90, 1)[0] == cut
    assert len(cut) < len(tiled.data) / 20
    spoiled[tiled.tiles[66] : tiled.tiles[67] - 2] = bytes(tiled.tiles[67] - 2 - tiled.tiles[66])
    assert cut_tiles(TiledJpeg(bytes(spoiled), tiled.tiles), 70, 70, 90, 90, 1)[0] != cut


@pytest.mark.parametrize(("data", "message"), [((16, 0), "no sequential JPEG"), ((48, 2), "do not divide the rows")])
def test_other_jpegs_have_no_tiles(data, message):
    width, interval = data
    with pytest.raises(ValueError, match=message):
        find_tiles(written(pixels(64, width), "4:2:0", interval))


@pytest.mark.parametrize("width", [1, 7, 64, 8 * 31, 8 * 40 - 3])
def test_encoding_pixels(width):
    image = np.rint(np.stack(np.broadcast_arrays(np.arange(51)[:, None], np.arange(width) / width * 255, 9), -1))
    tiled = encode_tiles(image.astype(np.uint8), 100, None)
    assert np.abs(pillows(tiled.data).astype(int) - image).max() <= 4
    assert tiled.tiles.dtype == np.int32
    np.testing.assert_array_equal(find_tiles(tiled.data).tiles, tiled.tiles)
    # 31 columns have no divisor from 4 to 8.
    tiles_in_a_row = {1: 1, 7: 1, 64: 2, 8 * 31: 1, 8 * 40 - 3: 10}[width]
    assert len(tiled.tiles) == 7 * tiles_in_a_row + 1


def test_lower_quality_is_smaller():
    sizes = [len(encode_tiles(pixels(64, 64), quality, None).data) for quality in (50, 80, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


def test_noise_is_written_too():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    tiled = encode_tiles(noise, 100, None)
    assert len(tiled.data) > 2 * 400 * 400  # more than Pillow's optimiser takes
    assert np.abs(pillows(tiled.data).astype(int) - noise).mean() < 2


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_keeps_its_quantisation_and_sampling(sampling, progressive):
    image = cv2.GaussianBlur(pixels(75, 133), (0, 0), 2)
    factor = SAMPLINGS[sampling][0]
    options = [cv2.IMWRITE_JPEG_QUALITY, 71, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    options += [] if factor is None else [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    original = cv2.imencode(".jpg", image[..., 0] if factor is None else image[..., ::-1], options)[1].tobytes()
    tiled = encode_tiles(pillows(original), 20, original)
    with Image.open(io.BytesIO(original)) as before, Image.open(io.BytesIO(tiled.data)) as after:
        assert after.quantization == before.quantization
        assert after.mode == before.mode
        layers = [[layer[1:3] for layer in each.layer] for each in (before, after)]
        # Pillow cannot write these two: chroma becomes finer, not coarser.
        assert layers[1] == ([(1, 1)] * 3 if sampling in ("4:4:0", "4:1:1") else layers[0])
    assert np.abs(pillows(tiled.data).astype(int) - pillows(original)).mean() < 1


def test_decoding_as_a_whole():
    tiled = encode_tiles(pixels(75, 133), 90, None)
    assert size_of(tiled) == (75, 133)
    np.testing.assert_array_equal(decode(tiled), pillows(tiled.data))
    np.testing.assert_array_equal(decode(tiled, 4), reduced(tiled.data, 4))


@pytest.mark.parametrize("box", [(0, 0, 133, 75), (3.4, 10.6, 61, 70), (132.9, 74.9, 133, 75), (20, 5, 120, 73.5)])
def test_a_window(box):
    tiled = encode_tiles(pixels(75, 133), 90, None)
    for side in (4, 8, 30, 200):  # from an eighth of the whole to larger than it is
        window = read_window(tiled, lambda *size: Box(*box), side)
        np.testing.assert_array_equal(window, read_window(tiled.data, lambda *size: Box(*box), side))


@pytest.mark.test_data
@pytest.mark.parametrize("crop", ["random_scale", "random_resized_crop"])
def test_windows_of_photographs(test_data, crop):
    photographs = open_images("imagenet2012", str(test_data / "tfds")).train
    cropping = Cropping(crop, (256, 480), 224)
    for index in range(0, len(photographs), 8):
        data = photographs[index].data
        tiled = encode_tiles(decode(data), 95, data)
        for seed in range(3):
            window = cropping(tiled, np.random.default_rng(seed))
            np.testing.assert_array_equal(window, cropping(tiled.data, np.random.default_rng(seed)))
            # And hardly another one than that of the photograph before it was written in tiles.
            assert np.abs(window.astype(int) - cropping(data, np.random.default_rng(seed))).mean() < 2
