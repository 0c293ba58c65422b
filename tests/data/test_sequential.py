"""Each photograph once and in order: evaluation and the mean image against Pillow and NumPy."""

import gc
import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numbered import DAMAGED, Listed, spoiled, whole
from pictures import encoded, noise
from PIL import Image

from resnet_jax.data import sequential
from resnet_jax.data.cache import write_cache
from resnet_jax.data.decode import decode
from resnet_jax.data.images import open_images
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.stream import DamageReport
from resnet_jax.errors import InputError


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_reading_ahead_keeps_the_order(count):
    found = list(sequential.in_order(spoiled(3, 4, count=count), lambda data: decode(data)[0, 0, 0], range(count)))
    assert found == [(i, 10 * i, None if i in (3, 4) else i) for i in range(count)]


def test_reading_ahead_does_not_hide_errors():
    def read(data):
        raise InputError("the disk is gone")

    with pytest.raises(InputError, match="the disk is gone"):
        list(sequential.in_order(whole(3), read, range(3)))


def noisy(index, height=43, width=60):
    return noise(height, width, seed=index)


def seen_at(resize_size):
    return Preprocessing(np.zeros((1, 1, 3)), resize_size=resize_size)


def central(pixels, resize_size, side):
    """Pillow's whole resizing, then the centre."""
    height, width, _ = pixels.shape
    size = (resize_size * width // height, resize_size)  # of a landscape
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top, left = round((resize_size - side) / 2), round((size[0] - side) / 2)
    return resized[top : top + side, left : left + side].astype(int)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_evaluation_shows_each_photograph_once(batch_size):
    photographs = Listed(tuple(DAMAGED if i in (2, 6) else encoded(noisy(i), "PNG") for i in range(15)))
    said = []
    damaged = DamageReport(photographs, 1.0, said.append, "it is left out")
    found = list(sequential.central_batches(photographs, (24, 24, 3), seen_at(29), batch_size, damaged))
    assert len(found) == -(-15 // batch_size)
    for images, labels, weights in found:
        assert images.shape == (batch_size, 24, 24, 3)
        assert (images.dtype, labels.dtype, weights.dtype) == (np.uint8, np.int32, np.float32)
    images, labels, weights = (np.concatenate(each) for each in zip(*found, strict=True))
    expected = [i for i in range(15) if i not in (2, 6)]
    assert np.flatnonzero(weights).tolist() == expected
    assert set(weights) <= {0, 1}
    assert labels[expected].tolist() == [10 * i for i in expected]
    for i in expected:
        assert np.abs(images[i] - central(noisy(i), 29, 24)).max() <= 1
    assert said == [f"photograph {i} is damaged: it is left out" for i in (2, 6)]


def test_evaluation_stops_where_too_many_are_damaged():
    photographs = spoiled(2, 6)
    with pytest.raises(InputError, match=r"2 of 20 images are damaged, photograph 6 the last so far"):
        list(
            sequential.central_batches(photographs, (32, 32, 3), seen_at(34), 4, DamageReport(photographs, 0.05, print))
        )


def test_the_mean_image_is_numpys():
    # Their centres need no resizing.
    photographs = Listed(tuple(DAMAGED if i == 4 else encoded(noisy(i, 30, 39), "PNG") for i in range(9)))
    centres = np.stack([noisy(i, 30, 39)[3:27, 8:32] for i in range(9)]).astype(float)
    for count, chosen in ((9, [0, 1, 2, 3, 5, 6, 7, 8]), (100, [0, 1, 2, 3, 5, 6, 7, 8]), (3, [0, 8]), (1, [0])):
        mean = sequential.mean_image(photographs, count, 30, 24)
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, centres[chosen].mean(0), atol=1e-4)


@pytest.mark.test_data
def test_the_mean_image_of_photographs(test_data):
    gc.collect()  # Grain's iterators of other files: their destructors fail while TFDS is being imported
    photographs = open_images("imagenet2012", str(test_data / "tfds")).train
    total, count = np.zeros((48, 48, 3)), 60
    for i in np.linspace(0, len(photographs) - 1, count).astype(int):
        with Image.open(io.BytesIO(photographs[i].data)) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        size = (56 * width // min(width, height), 56 * height // min(width, height))
        left, top = (round((length - 48) / 2) for length in size)
        total += np.asarray(image.resize(size, Image.Resampling.BILINEAR))[top : top + 48, left : left + 48]
    # Training windows are not antialiased.
    difference = sequential.mean_image(photographs, count, 56, 48) - total / count
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference.mean((0, 1))).max() < 0.3


def test_no_mean_image_of_damaged_photographs():
    with pytest.raises(InputError, match="all of 3 images are damaged"):
        sequential.mean_image(spoiled(*range(20)), 3, 34, 32)


def test_threads_that_read_a_new_cache_parse_its_index_one_after_another(tmp_path, monkeypatch):
    """CPython 3.11 cannot parse in several threads at once, and a run decodes in threads."""
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "1.png").write_bytes(encoded(noise(40, 40), "PNG"))
    write_cache(open_images("folder", tmp_path), tmp_path / "cache", form="raw", log=print)
    images, load, parsing, busiest = open_images("cache", tmp_path / "cache").train, np.load, [], []

    def slowly(*given, **options):
        parsing.append(None)
        time.sleep(0.05)
        busiest.append(len(parsing))
        parsing.pop()
        return load(*given, **options)

    monkeypatch.setattr(np, "load", slowly)
    with ThreadPoolExecutor(4) as threads:
        names = list(threads.map(lambda index: images[index].name, [0, 0, 0, 0]))
    assert set(names) == {"train/a/1.png"}
    assert set(busiest) == {1}
