import numpy as np
import pytest
import slow_reference as slow
from networks import tiny_network

from resnet_jax.data import decode
from resnet_jax.data.encoded import EncodedImage
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.scoring import score_images

pytestmark = pytest.mark.test_data

SIDE, SHORTER_SIDE = 64, 101  # an odd margin, so that rounding shows


@pytest.fixture(scope="module")
def pictures(photographs):
    """All photographs as Pillow opens them."""
    return [slow.opened(photograph) for photograph in photographs]


@pytest.fixture(scope="module")
def crops(pictures):
    """The five crops of each photograph: (300, 5, 64, 64, 3) uint8."""
    return np.array([slow.five_crops(slow.resized(picture, SHORTER_SIDE), SIDE) for picture in pictures])


@pytest.fixture(scope="module")
def trained(crops):
    return tiny_network(SIDE, crops[:40, 4], resize_size=SHORTER_SIDE, channel_order="bgr")


@pytest.fixture(scope="module")
def on_one_device(crops):
    """A network and its reference, which compiles a program for every size of an image."""
    trained = tiny_network(SIDE, crops[:40, 4])
    return trained, slow.Network(trained)


def scored(trained, images, protocol, batch_size, devices=None):
    """Probabilities in the order of the images."""
    found = sorted(
        score_images([trained], images, protocol, batch_size, make_mesh(devices)), key=lambda each: each.index
    )
    assert [each.index for each in found] == list(range(len(images)))
    assert [each.label for each in found] == [image.label for image in images]
    return np.exp([each.scores for each in found])


def assert_same_scores(found, expected):
    # Such scores tell the images apart: those of another image would be noticed, and so would small differences.
    others = np.abs(expected - np.roll(expected, 1, axis=0)).max(axis=1)
    assert np.median(others) > 0.02
    assert len(set(expected.argmax(axis=1))) > 0.1 * len(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def assert_same_pixels(found, expected):
    assert found.dtype == np.uint8
    differences = np.abs(found.astype(int) - np.asarray(expected))
    assert differences.max() <= 1
    assert differences.mean() < 0.25


def test_crops_are_those_of_pillow(photographs, crops):
    means = []
    for photograph, expected in zip(photographs, crops, strict=True):
        pixels = decode.decode(photograph.data)
        five = protocols.five_crop_view(pixels, SHORTER_SIDE, (SIDE, SIDE), "bilinear")
        center = protocols.center_view(pixels, SHORTER_SIDE, (SIDE, SIDE), "bilinear")
        assert_same_pixels(five, expected)
        assert_same_pixels(center, expected[4])
        means.append(np.abs(five.astype(int) - expected).mean())
    assert np.mean(means) < 0.02


def test_crops_of_the_papers_size(photographs, pictures):
    for photograph, picture in zip(photographs[::15], pictures[::15], strict=True):
        pixels = decode.decode(photograph.data)
        whole = slow.resized(picture, 256)
        assert_same_pixels(protocols.five_crop_view(pixels, 256, (224, 224), "bilinear"), slow.five_crops(whole, 224))
        assert_same_pixels(protocols.center_view(pixels, 256, (224, 224), "bilinear"), slow.center_crop(whole, 224))


# The scores' reference starts from our own crops, which the tests above compare with Pillow's: a grey level that is
# rounded otherwise changes a score by more than 1e-5.


def test_center(photographs, trained):
    reference = slow.Network(trained)
    expected = [
        reference.center(protocols.center_view(decode.decode(each.data), SHORTER_SIDE, (SIDE, SIDE), "bilinear"))
        for each in photographs
    ]
    assert_same_scores(scored(trained, photographs, protocols.choose("center"), 64), np.array(expected))


def test_ten_crop(photographs, trained):
    reference, images = slow.Network(trained), photographs[:100]
    expected = [
        reference.ten_crop(protocols.five_crop_view(decode.decode(each.data), SHORTER_SIDE, (SIDE, SIDE), "bilinear"))
        for each in images
    ]
    assert_same_scores(scored(trained, images, protocols.choose("ten_crop"), 100), np.array(expected))


def test_scores_of_pillows_own_crops_are_near(photographs, trained, crops):
    reference = slow.Network(trained)
    some = slice(0, 300, 10)
    for name, score in (("center", lambda five: reference.center(five[4])), ("ten_crop", reference.ten_crop)):
        found = scored(trained, photographs[some], protocols.choose(name), 64)
        np.testing.assert_allclose(found, [score(five) for five in crops[some]], rtol=0, atol=0.02)


@pytest.mark.parametrize(("averaging", "scales"), [("logits", (48, 96)), ("softmax", (96,))])
def test_dense(photographs, on_one_device, averaging, scales):
    trained, reference = on_one_device
    images = list(photographs[:12])
    # Longer than four times their width, the other way round, a square, and smaller than any scale.
    for box in ((0, 0, 250, 40), (0, 0, 30, 300), (0, 0, 200, 200), (0, 0, 9, 7)):
        images.append(EncodedImage(np.asarray(slow.opened(photographs[30]).crop(box)), 5, "a part"))
    views = [[protocols.dense_view(decode.decode(each.data), scale, "bilinear") for scale in scales] for each in images]
    assert [each[-1].shape for each in views[-4:-1]] == [(96, 384, 3), (384, 96, 3), (96, 96, 3)]
    both = [reference.dense(each, window=2) for each in views]
    expected = {way: np.array([each[i] for each in both]) for i, way in enumerate(("logits", "softmax"))}
    assert_same_scores(
        scored(trained, images, protocols.choose("dense", scales, averaging), 8, devices=1), expected[averaging]
    )
    # The two ways of averaging differ by more than what is let pass.
    assert np.abs(expected["logits"] - expected["softmax"]).max() > 1e-3


def test_dense_views_are_those_of_pillow(photographs, pictures):
    for photograph, picture in zip(photographs[::10], pictures[::10], strict=True):
        for scale in (64, 224):
            expected = slow.dense_image(picture, scale)
            found = protocols.dense_view(decode.decode(photograph.data), scale, "bilinear")
            assert found.shape == expected.shape
            assert_same_pixels(found, expected)


def test_dense_sizes():
    for scale in protocols.SCALES:
        assert protocols.dense_size(333, 333, scale) == (scale, scale)
        for width in range(100, 401, 7):
            tall, wide = protocols.dense_size(100, width, scale)
            assert protocols.dense_size(width, 100, scale) == (wide, tall)
            assert tall == scale
            assert wide % 32 == 0
            assert abs(wide / tall / (width / 100) - 1) < 0.08
        assert protocols.dense_size(10, 4000, scale) == (scale, 4 * scale)
    assert protocols.dense_size(375, 500, 224) == (224, 288)  # 298.7


def test_the_window_is_the_map_that_the_network_was_trained_on(crops, on_one_device):
    """At the network's own size there is one window, so that dense scores are those of the image and its mirror."""
    trained, reference = on_one_device
    images = [EncodedImage(five[4], 0, "") for five in crops[:12]]
    expected = [(reference.center(five[4]) + self_mirrored(reference, five[4])) / 2 for five in crops[:12]]
    for averaging in protocols.AVERAGING:
        found = scored(trained, images, protocols.choose("dense", (SIDE,), averaging), 12, devices=1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def self_mirrored(reference, crop):
    prepared = np.fliplr(reference.prepared(crop))
    return slow.softmax(reference.forward(prepared[np.newaxis])[0])


def test_grey_networks_get_grey_views(photographs, trained):
    pixels = decode.decode(photographs[0].data)
    for name, lead in (("center", ()), ("ten_crop", (5,))):
        protocol = protocols.choose(name)
        (colour,) = protocols.views(protocol, trained, pixels)
        (grey,) = protocols.views(protocol, trained.replace(image_shape=(SIDE, SIDE, 1)), pixels)
        assert grey.shape == (*lead, SIDE, SIDE, 1)
        luminance = colour @ np.array((0.299, 0.587, 0.114))
        assert np.abs(grey[..., 0] - luminance).max() <= 0.51


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("centre",), "must be one of center, ten_crop, dense"),
        (("dense", None, "mean"), "must be one of logits, softmax"),
        (("center", (224,)), "belong to the protocol dense"),
        (("ten_crop", None, "softmax"), "belong to the protocol dense"),
        (("dense", ()), "must be shorter sides in pixels"),
        (("dense", (224, 0)), "must be shorter sides in pixels"),
    ],
)
def test_protocols_that_do_not_exist(arguments, message):
    with pytest.raises(InputError, match=message):
        protocols.choose(*arguments)
