"""Boxes against SciPy's components, overlaps against sets of pixels, and MaxBoxAcc against a plain loop."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from resnet_jax.analysis import box_iou, largest_region, max_box_accuracy, upsample
from resnet_jax.errors import InputError


def pixels(box):
    x0, y0, x1, y1 = box
    return set(itertools.product(range(x0, x1 + 1), range(y0, y1 + 1)))


def smooth(seed, side=24):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 2)


def test_the_largest_region_is_that_of_scipy():
    regions = 0
    for seed in range(20):
        scores = smooth(seed)
        labels, count = ndimage.label(scores > 0.2 * scores.max(), np.ones((3, 3)))
        regions += count
        rows, columns = ndimage.find_objects(labels)[np.bincount(labels.flat)[1:].argmax()]
        assert largest_region(scores) == (columns.start, rows.start, columns.stop - 1, rows.stop - 1)
    assert regions > 40
    assert largest_region(np.full((3, 4), -1.0)) is None


def test_overlaps_are_those_of_sets_of_pixels():
    corners = np.random.default_rng(0).integers(0, 12, (9, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).tolist()
    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in boxes[4:]] for a in boxes[:4]]
    np.testing.assert_allclose(box_iou(boxes[:4], boxes[4:]), expected)


def test_maps_are_enlarged_around_the_centres_of_their_cells():
    ramp = np.arange(3.0)[None, None]
    centres = (np.arange(12) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(upsample(ramp, 1, 12)[0, 0], centres.clip(0, 2), atol=1e-6)
    assert upsample(ramp, 2, 6, "nearest").tolist() == [[[0, 0, 1, 1, 2, 2]] * 2]
    with pytest.raises(InputError, match="nearest, bilinear, bicubic"):
        upsample(ramp, 1, 12, "lanczos")


def test_maps_on_a_grid_are_interpolated_between_the_centres_of_its_cells():
    values = np.random.default_rng(0).normal(size=(1, 5, 6)).astype(np.float32)
    found = upsample(values, 20, 24, grid=(2.0, 4.0))[0]
    # NumPy repeats the outermost values as well.
    rows = np.array([np.interp(np.arange(20), 2 + 4 * np.arange(5), column) for column in values[0].T]).T
    expected = [np.interp(np.arange(24), 2 + 4 * np.arange(6), row) for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for how in ("nearest", "bicubic"):
        np.testing.assert_allclose(upsample(values, 20, 24, how, (2, 4))[0, 2::4, 2::4], values[0], atol=1e-6)
    # Where cells share the image out among them, OpenCV has the same places.
    for how in ("bilinear", "bicubic"):
        np.testing.assert_allclose(upsample(values, 20, 24, how, (1.5, 4)), upsample(values, 20, 24, how), atol=1e-5)


def blobs():
    """A faint wide blob and a strong small one: which region is the largest depends on the threshold."""
    scores = np.zeros((32, 32))
    scores[2:20, 2:20], scores[24:29, 22:29] = 0.5, 1.0
    return scores


WIDE, SMALL = (2, 2, 20, 20), (22, 24, 29, 29)


def test_the_first_version_takes_the_largest_contour_at_the_best_threshold():
    found = max_box_accuracy([blobs(), blobs()], [[WIDE], [SMALL]], steps=510)
    assert found.accuracy == 0.5  # at no threshold are both right
    low, high = (max_box_accuracy([blobs()], [[box]], steps=510) for box in (WIDE, SMALL))
    assert (low.accuracy, high.accuracy) == (1, 1)
    right = (low.curves[0] > 0).astype(int)
    # On 8 bits 0.5 is 127 of 255, which is above 126, at 253 / 510, and above 127, at 254 / 510, no more.
    assert right.tolist() == [1] * 254 + [0] * 256
    assert (high.curves[0] > 0).tolist() == [not each for each in right]
    assert (low.thresholds, high.thresholds) == ((0.0,), (254 / 510,))


def test_the_second_version_takes_any_contour_and_three_overlaps():
    assert max_box_accuracy([blobs(), blobs()], [[WIDE], [SMALL]], version=2).accuracy == 1
    # A box of 18 x 18 pixels, as seen one too wide, 19 x 19, in one of 19 x 38: half, which is right for 0.3 and 0.5.
    found = max_box_accuracy([blobs()], [[(2, 2, 20, 39)]], version=2, steps=10)
    assert found.curves.max(1).tolist() == [1, 1, 0]
    assert found.accuracy == pytest.approx(2 / 3)


def test_maps_without_anything_and_boxes_without_maps():
    assert max_box_accuracy(np.zeros((1, 8, 8)), [[(2, 2, 5, 5)]]).accuracy == 0
    with pytest.raises(InputError, match="each map needs its own"):
        max_box_accuracy(np.zeros((2, 8, 8)), [[WIDE], []])
    with pytest.raises(InputError, match="versions 1 and 2"):
        max_box_accuracy(np.zeros((1, 8, 8)), [[WIDE]], version=3)
