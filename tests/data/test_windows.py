"""Windows of images against whole resizing with NumPy's and Pillow's own arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from pictures import encoded, noise, pillows, smooth
from PIL import Image

from resnet_jax.data import decode, windows
from resnet_jax.data.windows import Box

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def linear(image, side):
    """Linear interpolation between pixel centres, edges continued: (side, side, 3) float."""
    for axis, length in enumerate(image.shape[:2]):
        places = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        low = np.minimum(places.astype(int), max(length - 2, 0))
        part = (places - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        high = np.minimum(low + 1, length - 1)
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image


def averages(image, side):
    """The mean over the area of each new pixel."""
    for axis, length in enumerate(image.shape[:2]):
        edges = np.arange(side + 1) * length / side
        covered = np.clip(np.minimum(edges[1:, None], np.arange(length) + 1), 0, None)
        covered = np.clip(covered - np.maximum(edges[:-1, None], np.arange(length)), 0, None)
        image = np.moveaxis(np.tensordot(covered * side / length, image, (1, axis)), 0, axis)
    return image


@pytest.mark.parametrize(
    ("side", "reference"), [(9, averages), (15, averages), (16, linear), (30, linear), (40, linear), (77, linear)]
)
def test_a_window_is_cut_at_whole_pixels_and_interpolated(side, reference):
    image = noise(50, 60)
    for box, rows, columns in [
        (Box(11, 7, 42, 38), slice(7, 38), slice(11, 42)),
        (Box(10.6, 7.4, 42.4, 37.6), slice(7, 38), slice(11, 42)),
        (Box(29, 19.5, 60, 49.7), slice(20, 50), slice(29, 60)),
        (Box(0.2, 0.3, 30.9, 31.1), slice(0, 31), slice(0, 31)),
    ]:
        expected = reference(image[rows, columns].astype(float), side)
        for data in (image, encoded(image, "PNG")):
            window = decode.read_window(data, lambda *_: box, side)  # noqa: B023 (called at once)
            assert window.shape == (side, side, 3)
            assert window.dtype == np.uint8
            assert np.abs(window - expected).max() < 1


class Spy:
    """What `read_window` decodes of a JPEG, and the part of it that it resizes."""

    def __init__(self, monkeypatch):
        self.decoded, self.part = None, None
        decode_, resize = decode.simplejpeg.decode_jpeg, decode.cv2.resize

        def note_decoded(*arguments, buffer=None, **options):
            image = np.empty(0) if buffer is None else buffer
            try:
                image = decode_(*arguments, buffer=buffer, **options)
            finally:
                self.decoded = image.shape[:2]
            return image

        def note_part(image, *arguments, **keywords):
            self.part = image.shape[:2]
            return resize(image, *arguments, **keywords)

        monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", note_decoded)
        monkeypatch.setattr(decode.cv2, "resize", note_part)


@pytest.mark.parametrize("height_width", [(400, 512), (401, 517), (515, 393)])
@pytest.mark.parametrize("side", [20, 24, 49, 60, 99, 180, 230, 500])
def test_a_jpeg_is_decoded_no_larger_and_no_smaller_than_its_window_needs(height_width, side, monkeypatch):
    height, width = height_width
    data = encoded(smooth(height, width), "JPEG", quality=95)
    for box in (Box(0, 0, width, height), Box(101.3, 37.7, width, height), Box(11.1, 5.2, 333.9, 381.5)):
        with monkeypatch.context() as patch:
            spy = Spy(patch)
            window = decode.read_window(data, lambda *_: box, side)  # noqa: B023 (called at once)
        factor = next(factor for factor in (1, 2, 4, 8) if -(-width // factor) == spy.decoded[1])
        assert spy.decoded[0] <= min(-(-height // factor), -(-round(box.bottom) // factor) + 3)
        assert factor == 1 or min(spy.part) >= side
        assert factor == 8 or min(spy.part) <= 2 * side
        # Pillow resizes the exact box of the whole image. The edges of a smaller image may be half a pixel of the
        # result off on either side, and as much as the ramps rise in that.
        exact = Image.fromarray(pillows(data)).resize((side, side), Image.Resampling.BOX, box=box)
        rise = 255 / min(height, width) * max(box.right - box.left, box.bottom - box.top) / side
        assert np.abs(window - np.asarray(exact, int)).max() < rise + 4
        assert np.abs(window - np.asarray(exact, int)).mean() < rise / 2 + 1


@pytest.mark.test_data
def test_training_windows_of_photographs_are_close_to_antialiased_ones(photograph_files, monkeypatch):
    spy, differences, factors = Spy(monkeypatch), [], []
    for data in photograph_files:
        height, width = decode.size_of(data)
        box = windows.center_window(height, width, 64, (48, 48))
        window = decode.read_window(data, lambda *_: box, 48).astype(int)  # noqa: B023 (called at once)
        factors.append(width / spy.decoded[1])
        differences.append(window - decode.resample(pillows(data), box, (48, 48), "bilinear"))
    assert {1, 2, 4} <= set(np.rint(factors)) <= {1, 2, 4, 8}
    assert max(np.abs(difference).mean() for difference in differences) < 15
    assert np.mean(np.abs(differences)) < 5
    assert abs(np.mean(differences)) < 0.2


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("height_width", [(1, 1), (1, 300), (300, 1), (2, 3), (9, 1000)])
def test_narrow_images(height_width, file_format):
    height, width = height_width
    data = encoded(np.full((height, width, 3), (40, 90, 200), np.uint8), file_format, quality=100)
    random = np.random.default_rng(0)
    choices = [
        lambda height, width: windows.scale_window(height, width, random, (16, 20), 12),
        lambda height, width: windows.area_window(height, width, random),
        lambda height, width: windows.center_window(height, width, 14, (12, 12)),
    ]
    for choose in choices * 5:
        exact = decode.resample(decode.decode(data), choose(height, width), (12, 12), "bicubic")
        for window in (decode.read_window(data, choose, 12), exact):
            assert window.shape == (12, 12, 3)
            assert np.abs(window - np.array((40, 90, 200))).max() <= 2


class Scripted:
    """A generator whose draws are given; notes the ranges they came from, ends included."""

    def __init__(self, *draws):
        self.draws, self.ranges = list(draws), []

    def integers(self, low, high=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        self.ranges.append((low, high if endpoint else high - 1))
        return self.draws.pop(0)

    def uniform(self, low, high):
        self.ranges.append((low, high))
        return self.draws.pop(0)


def whole_size(height, width, resize_size):
    """(height, width) after resizing; the longer side rounded down."""
    scale = Fraction(resize_size, min(height, width))
    return math.floor(height * scale), math.floor(width * scale)


def whole_window(image, resized, top, left, size, interpolation):
    """Resizes all of the image, then cuts."""
    whole = Image.fromarray(image).resize(resized[::-1], FILTERS[interpolation])
    return np.asarray(whole)[top : top + size[0], left : left + size[1]].astype(int)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("height_width", [(90, 131), (131, 90), (47, 47), (33, 200), (100, 101)])
def test_resampling_a_box_is_resizing_everything_and_cutting(height_width, interpolation):
    image = noise(*height_width)
    random = np.random.default_rng(0)
    off = []
    for scale in (20, 33, 47, 64, 97, 150):
        resized = whole_size(*height_width, scale)
        side = random.integers(5, 20)
        top, left = (int(random.integers(0, length - side + 1)) for length in resized)
        drawn = windows.scale_window(*height_width, Scripted(scale, top, left), (16, 200), side)
        boxes = [(drawn, top, left)]
        low, far = resized[0] - side, resized[1] - side
        for box, at in zip(
            windows.corner_windows(*height_width, scale, (side, side)),
            [(0, 0), (0, far), (low, 0), (low, far), (round(low / 2), round(far / 2))],
            strict=True,
        ):
            boxes.append((box, *at))
        for box, top, left in boxes:
            ours = decode.resample(image, box, (side, side), interpolation)
            expected = whole_window(image, resized, top, left, (side, side), interpolation)
            off.append(np.abs(ours - expected))
            assert off[-1].max() <= 1
    assert np.mean(np.concatenate([each.ravel() for each in off])) < 0.02


@pytest.mark.parametrize("height_width", [(375, 500), (500, 375), (300, 300), (257, 480), (700, 256)])
def test_scale_windows_are_those_of_every_scale_and_position(height_width):
    height, width = height_width
    for scale in range(256, 481):
        resized = whole_size(height, width, scale)
        low, far = resized[0] - 224, resized[1] - 224
        for top, left in ((0, 0), (low, far), (low // 3, far // 2)):
            random = Scripted(scale, top, left)
            box = windows.scale_window(height, width, random, (256, 480), 224)
            assert random.ranges == [(256, 480), (0, low), (0, far)]
            down, across = Fraction(height, resized[0]), Fraction(width, resized[1])
            expected = [left * across, top * down, (left + 224) * across, (top + 224) * down]
            np.testing.assert_allclose(box, [float(each) for each in expected], rtol=1e-12)
            assert 0 <= box.left < box.right <= width
            assert 0 <= box.top < box.bottom <= height
            # 224 / scale of the shorter side; the other side shows as much, but for the rounding of the longer side.
            sides = np.array((box.bottom - box.top, box.right - box.left))
            np.testing.assert_allclose(sides / min(height, width), 224 / scale, rtol=1 / scale)


def test_every_scale_is_as_frequent_as_another():
    random, draws = np.random.default_rng(0), 45_000
    boxes = [windows.scale_window(500, 375, random, (256, 480), 224) for _ in range(draws)]
    scales = np.array([224 * 375 / (box.right - box.left) for box in boxes])
    assert np.abs(scales - np.rint(scales)).max() < 1e-6
    counts = np.bincount(np.rint(scales).astype(int), minlength=481)
    assert counts[:256].sum() == 0
    assert len(counts) == 481
    # Chi-squared with 224 degrees of freedom exceeds 299 once in 2,000.
    assert ((counts[256:] - draws / 225) ** 2).sum() / (draws / 225) < 299


def test_every_position_is_as_frequent_as_another():
    random, draws = np.random.default_rng(1), 6_000
    boxes = [windows.scale_window(34, 36, random, (34, 34), 32) for _ in range(draws)]
    counts = np.zeros((3, 5))
    for box in boxes:
        counts[round(box.top), round(box.left)] += 1
    # Chi-squared with 14 degrees of freedom exceeds 36 once in 1,000.
    assert ((counts - draws / 15) ** 2).sum() / (draws / 15) < 36


def documented_area_window(height, width, random):
    """`torchvision.transforms.RandomResizedCrop.get_params`, with its names, and our order of draws."""
    scale, ratio = (0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0)
    for _ in range(10):
        target_area = height * width * random.uniform(*scale)
        aspect_ratio = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            i = random.integers(0, height - h + 1)
            j = random.integers(0, width - w + 1)
            return i, j, h, w
    in_ratio = float(width) / float(height)
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("height_width", [(375, 500), (500, 333), (64, 64), (30, 100), (100, 30), (10, 1000), (3, 2)])
def test_area_windows_are_the_documented_algorithms(height_width):
    height, width = height_width
    ours, theirs = (np.random.default_rng(4) for _ in range(2))
    fell_back = 0
    for _ in range(300):
        i, j, h, w = documented_area_window(height, width, theirs)
        box = windows.area_window(height, width, ours)
        assert box == (j, i, j + w, i + h)
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height
        fell_back += {h, w} & {height, width} != set()
    assert (fell_back == 300) == (height_width == (10, 1000))


def test_area_windows_where_nothing_fits():
    random = np.random.default_rng(0)
    # 8 % of the area are 800 pixels, and no window of ten rows has as many at 4:3; the largest such one is centred.
    assert windows.area_window(10, 1000, random) == (493, 0, 506, 10)
    assert windows.area_window(1000, 10, random) == (0, 493, 10, 506)
    too_wide = Scripted(*[1.0, math.log(4 / 3)] * 10)
    assert windows.area_window(100, 110, too_wide) == (0, 0, 110, 100)
    assert too_wide.ranges == [(0.08, 1), (math.log(3 / 4), math.log(4 / 3))] * 10


def test_areas_and_aspects_are_spread_evenly():
    random, draws = np.random.default_rng(0), 12_000
    boxes = np.array([windows.area_window(2000, 2000, random) for _ in range(draws)])
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, aspect = wide * tall / 2000**2, wide / tall
    assert 0.0795 < share.min() < 0.1
    assert 0.9 < share.max() <= 1
    assert 0.748 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.336
    # Below three quarters of the area every aspect fits, so that nothing is drawn again.
    small = share < 0.74
    for values, low, high in ((share, 0.08, 0.74), (np.log(aspect), math.log(3 / 4), math.log(4 / 3))):
        counts, _ = np.histogram(values[small], 10, (low, high))
        expected = counts.sum() / 10
        # Chi-squared with 9 degrees of freedom exceeds 27.9 once in 1,000.
        assert ((counts - expected) ** 2).sum() / expected < 27.9


def in_resized(box, height_width, resized):
    """A box in pixels of the resized image, which are whole numbers: (top, left, bottom, right)."""
    down, across = resized[0] / height_width[0], resized[1] / height_width[1]
    edges = np.array((box.top * down, box.left * across, box.bottom * down, box.right * across))
    np.testing.assert_allclose(edges, np.rint(edges), atol=1e-9)
    return tuple(np.rint(edges).astype(int).tolist())


@pytest.mark.parametrize("size", [(224, 224), (225, 225), (256, 256), (200, 131)])
def test_centre_and_corner_windows(size):
    tall, wide = size
    for height_width in [(500, 375), (375, 500), (256, 256), (333, 501), (100, 977), (1201, 300), (257, 256)]:
        for resize_size in (256, 257, 259, 480):
            resized = whole_size(*height_width, resize_size)
            assert windows.resized_size(*height_width, resize_size) == resized
            low, far = resized[0] - tall, resized[1] - wide
            # Python rounds halves to even numbers, as torchvision's centre crop does.
            top, left = round(low / 2), round(far / 2)
            starts = [(0, 0), (0, far), (low, 0), (low, far), (top, left)]
            boxes = windows.corner_windows(*height_width, resize_size, size)
            expected = [(top, left, top + tall, left + wide) for top, left in starts]
            assert [in_resized(box, height_width, resized) for box in boxes] == expected
            assert windows.center_window(*height_width, resize_size, size) == boxes[4]
            for box in boxes:
                assert 0 <= box.left < box.right <= height_width[1]
                assert 0 <= box.top < box.bottom <= height_width[0]


def test_odd_differences_are_rounded_to_even():
    assert windows.center_window(257, 257, 257, (224, 224))[:2] == (16, 16)  # 16.5
    assert windows.center_window(259, 259, 259, (224, 224))[:2] == (18, 18)  # 17.5
    assert windows.center_window(257, 259, 257, (224, 224))[:2] == (18, 16)
