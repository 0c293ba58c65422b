"""Consistency against counts by NumPy alone, and equivariance under circular padding, where it is exact."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.analysis import (
    circular_consistency,
    crop_consistency,
    equivariance_errors,
    one_pixel_consistency,
    relative_change,
    rotate,
    scale,
    transform_consistency,
)
from resnet_jax.data import load
from resnet_jax.errors import InputError
from small_networks import random_images, small_classifier

LARGE, LABELS = random_images(20, (18, 19, 1)), np.arange(20) % 3


@pytest.fixture(scope="module")
def classifier():
    """With logits around zero, so that its answers differ."""
    drawn = small_classifier()
    mean = np.asarray(drawn(LARGE[:, :8, :8])).mean(0)
    fc = drawn.variables["params"]["fc"]
    params = drawn.variables["params"] | {"fc": {**fc, "bias": fc["bias"] - mean}}
    return drawn.replace(variables=drawn.variables | {"params": params})


def counted(classifier, first, second, labels):
    """Consistency, accuracy and change of pairs of views, one by one."""
    softmax = [np.exp(np.float64(classifier(views))) for views in (first, second)]
    p, q = (each / each.sum(1, keepdims=True) for each in softmax)
    answers = [max(range(3), key=row.__getitem__) for row in p]
    others = [max(range(3), key=row.__getitem__) for row in q]
    same = sum(a == b for a, b in zip(answers, others, strict=True)) / len(p)
    right = sum(a == b for a, b in zip(answers, labels, strict=True)) / len(p)
    return same, right, sum(abs(p[i, a] - q[i, a]) for i, a in enumerate(answers)) / len(p)


def test_crops_are_compared_as_zhang_does(classifier):
    found = crop_consistency(classifier, LARGE, LABELS, offsets=9, group=8, passes=2, seed=3, batch_size=8)
    draws, expected = np.random.default_rng(3), []
    for _ in range(2):
        pairs = draws.integers(0, 9, (3, 2, 2))  # of 20 images there are 3 groups of 8
        views = [
            np.stack([LARGE[i, y : y + 8, x : x + 8] for i, (y, x) in enumerate(pairs[np.arange(20) // 8, side])])
            for side in range(2)
        ]
        expected.append(counted(classifier, *views, LABELS))
    assert found.passes == tuple(each[0] for each in expected)
    np.testing.assert_allclose(found[:3], np.mean(expected, 0), rtol=1e-5)
    assert 0 < found.consistency < 1
    again = crop_consistency(classifier, LARGE, offsets=9, passes=2, seed=3, batch_size=20)
    assert (again.accuracy, again.passes) == (None, found.passes)


def test_circular_shifts_are_those_of_numpy(classifier):
    images = LARGE[:, :8, :8]
    found = circular_consistency(classifier, images, LABELS, passes=1, seed=1)
    (pair,) = np.random.default_rng(1).integers(-3, 3, (1, 2, 2))
    views = [np.roll(images, tuple(each), (1, 2)) for each in pair]
    np.testing.assert_allclose(found[:3], counted(classifier, *views, LABELS), rtol=1e-5)
    with pytest.raises(InputError, match=r"network's own size, 8 x 8"):
        circular_consistency(classifier, LARGE)


def test_one_pixel_shifts_are_around_the_centre(classifier):
    found = one_pixel_consistency(classifier, LARGE, LABELS)
    # (18 - 8 - 1) // 2 = 4 and (19 - 8 - 1) // 2 = 5: rows from 0 and columns from 1.
    views = [LARGE[:, k : k + 8, k + 1 : k + 9] for k in range(9)]
    expected = [counted(classifier, views[k], views[k + 1], LABELS) for k in range(8)]
    assert len(found.passes) == 8
    np.testing.assert_allclose(found[:3], np.mean(expected, 0), rtol=1e-5)
    with pytest.raises(InputError, match=r"16 x 19, but this protocol needs at least 17 x 17"):
        one_pixel_consistency(classifier, LARGE[:, :16])


def test_any_transform_can_be_asked_about(classifier):
    images = LARGE[:, :8, :8]
    found = transform_consistency(classifier, images, lambda batch: batch[:, :, ::-1], LABELS, batch_size=8)
    np.testing.assert_allclose(found[:3], counted(classifier, images, images[:, :, ::-1], LABELS), rtol=1e-5)
    assert transform_consistency(classifier, images, partial(rotate, degrees=0)).consistency == 1
    with pytest.raises(InputError, match="there is no image"):
        transform_consistency(classifier, images[:0], partial(rotate, degrees=0))


def test_circular_padding_is_equivariant_and_zero_padding_is_not(classifier):
    images = LARGE[:4, :8, :8]
    wrapped = classifier.replace(model=classifier.model.clone(padding="wrap"))
    exact = equivariance_errors(wrapped, images, (2, -4))
    assert list(exact) == ["stem", "stage1", "stage2", "logits"]
    assert max(exact.values()) < 1e-6
    broken = equivariance_errors(classifier, images, (2, -4))
    assert min(broken.values()) > 0.01
    # Of an odd shift the map of stride 2 has no shifted form; the logits need not stay, even so.
    odd = equivariance_errors(wrapped, images, (1, 0))
    assert list(odd) == ["stem", "stage1", "logits"]
    assert max(odd["stem"], odd["stage1"]) < 1e-6 < 0.01 < odd["logits"]


def test_maps_whose_strides_do_not_divide_the_sides_have_no_shifted_form():
    network = small_classifier(stage_sizes=(1, 1, 1), widths=(4, 4, 4), padding="wrap")
    assert list(equivariance_errors(network, LARGE[:2, :9, :9], (3, 0))) == ["stem", "stage1", "logits"]


def test_poolings_tolerate_what_the_guide_says():
    images = load("digits").test.images[:300].astype(np.float32)
    poolings = (
        lambda images: images,
        lambda images: images.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4)),
        lambda images: images.reshape(-1, 4, 2, 4, 2, 1).max((2, 4)),
        lambda images: images.mean((1, 2)),
    )
    changes = {
        "a circular shift by one pixel": partial(np.roll, shift=1, axis=2),
        "a turn of 30 degrees": partial(rotate, degrees=30.0),
        "a scale of 0.7": partial(scale, factor=0.7),
    }
    guide = (Path(__file__).parents[2] / "docs" / "looking.md").read_text()
    for name, change in changes.items():
        found = [relative_change(pooling, images, change) for pooling in poolings]
        stated = next(line for line in guide.splitlines() if line.startswith(f"| {name} "))
        assert found == pytest.approx([float(each) for each in stated.split("|")[2:-1]], abs=0.01)
    shift = changes["a circular shift by one pixel"]
    moved, norms = shift(images) - images, np.sqrt((images**2).sum((1, 2, 3)))
    expected = (np.sqrt((moved**2).sum((1, 2, 3))) / norms).mean()
    assert relative_change(poolings[0], images, shift) == pytest.approx(expected)


def test_turned_and_scaled_images():
    image = random_images(1, (5, 5, 1)).astype(np.float32)
    np.testing.assert_allclose(rotate(image, 90), np.rot90(image, axes=(1, 2)), atol=1e-3)
    ramp = np.arange(9.0, dtype=np.float32).reshape(1, 1, 9, 1).repeat(9, 1)
    np.testing.assert_allclose(scale(ramp, 2)[0, 4, :, 0], 4 + (np.arange(9) - 4) / 2, atol=1e-3)
    assert rotate(LARGE, 10).dtype == np.uint8
