"""Data without a config: a folder's splits and small data sets, in the batches that a run trains on."""

import contextlib
import itertools

import numpy as np
import pytest
from numbered import COUNT, DAMAGED, coordinates
from PIL import Image

from resnet_jax import data
from resnet_jax.data import stream
from resnet_jax.data.batch import batch_indices
from resnet_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ten photographs of 34 x 36 pixels; of those to validate on the last is damaged."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for index in range(COUNT):
            path = root / split / ("cat" if index < 10 else "dog") / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coordinates(index)).save(path)
    (root / "val" / "dog" / "19.png").write_bytes(DAMAGED)
    return root


def opened(folder, **options):
    said = []
    return data.image_folder(folder, **{"image_size": 16, "log": said.append} | options), said


@pytest.mark.parametrize("as_given", [str, lambda path: path])
def test_a_folder_has_splits_and_class_names(folder, as_given):
    photos, _ = opened(as_given(folder))
    assert photos.class_names == ("cat", "dog")
    assert (len(photos.train), len(photos.validation)) == (20, 20)
    assert photos.train[11].name == "train/dog/11.png"
    assert photos.train[11].label == 1


@pytest.mark.parametrize(
    ("crop", "cropping"),
    [
        ("random_resized_crop", stream.Cropping("random_resized_crop", (0, 0), 16)),
        ("random_scale", stream.Cropping("random_scale", (18, 34), 16)),
    ],
)
def test_batches_to_train_on_are_those_of_a_run(folder, crop, cropping):
    photos, _ = opened(folder)
    found = list(photos.train.batches(8, steps=3, seed=5, start=2, crop=crop))
    assert len(found) == 3
    run = stream.TrainBatches(photos.train.source, cropping, seed=5, batch_size=8, start=2, num_workers=0)
    with contextlib.closing(run):
        for ours in found:
            theirs = next(run)
            assert (ours.images.shape, ours.images.dtype, ours.labels.dtype) == ((8, 16, 16, 3), np.uint8, np.int32)
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            assert ours.weights is None


def test_batches_have_no_end_unless_one_is_asked_for(folder):
    photos, _ = opened(folder)
    endless = photos.train.batches(15)
    with contextlib.closing(endless):
        assert sum(len(batch.labels) for batch in itertools.islice(endless, 8)) == 120
    assert list(photos.train.batches(15, steps=0)) == []


def test_each_photograph_is_seen_once_and_in_order(folder):
    photos, said = opened(folder, max_corrupt_fraction=0.05)
    found = list(photos.validation.eval_batches(8))
    images, labels, weights = (np.concatenate(each) for each in zip(*found, strict=True))
    assert images.shape == (24, 16, 16, 3)
    np.testing.assert_array_equal(weights, [1] * 19 + [0] * 5)
    np.testing.assert_array_equal(labels[:19], [0] * 10 + [1] * 9)
    # The first channel of every pixel is the number of its photograph.
    np.testing.assert_array_equal(images[:19, 8, 8, 0], np.arange(19))
    assert said == ["val/dog/19.png is damaged: it is left out"]


def test_damaged_photographs_are_replaced_named_and_not_too_many(folder):
    photos, said = opened(folder, max_corrupt_fraction=0.05)
    list(photos.validation.batches(20, steps=2))
    assert said == ["val/dog/19.png is damaged: the next image takes its place"]
    photos, _ = opened(folder, max_corrupt_fraction=0.0)
    with pytest.raises(InputError, match=r"1 of 20 images are damaged, val/dog/19\.png the last so far"):
        list(photos.validation.batches(20, steps=2))


def test_what_cannot_be(folder, tmp_path):
    photos, _ = opened(folder)
    with pytest.raises(InputError, match="crop is 'ten', but it must be one of random_resized_crop, random_scale"):
        photos.train.batches(8, crop="ten")
    for fields, message in (
        ({"resize_size": 15}, "image_size is 16, but it must be from 1 to resize_size=15"),
        ({"resize_size": "32"}, "resize_size is '32', but it must be a whole number, at least 1"),
        ({"image_size": "32"}, "image_size is '32', but it must be a whole number, at least 1"),
        ({"num_workers": None}, "num_workers is None, but it must be a whole number, at least 0"),
        ({"max_corrupt_fraction": "0.1"}, "max_corrupt_fraction is '0.1', but it must be a number from 0 to 1"),
        ({"max_corrupt_fraction": 10}, "max_corrupt_fraction is 10, but it must be a number from 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            opened(folder, **fields)
    for made in (photos.train.batches, photos.train.eval_batches):
        with pytest.raises(InputError, match="batch_size is '8', but it must be a whole number, at least 1"):
            made("8")
    with pytest.raises(InputError, match="does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(AttributeError, match=r"No resnet_jax\.data attribute nonsense"):
        data.nonsense  # noqa: B018


def test_small_data_sets_have_the_batches_of_a_run():
    digits = data.load("digits")
    assert len(digits.class_names) == 10
    found = list(digits.train.batches(100, steps=3, seed=1, start=20))
    for step, batch in zip(range(20, 23), found, strict=True):
        rows = np.asarray(batch_indices(1, step, 100, len(digits.train)))
        np.testing.assert_array_equal(batch.images, digits.train.images[rows])
        np.testing.assert_array_equal(batch.labels, digits.train.labels[rows])
    assert len(list(itertools.islice(digits.train.batches(2000), 2))) == 2
