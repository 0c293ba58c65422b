import gzip
import importlib.util
import io
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from resnet_jax.data import Batch, ImageFolder, ImageSplit, Preprocessing, small, tfds
from resnet_jax.data.encoded import EncodedImage
from resnet_jax.data.folders import FolderImages
from resnet_jax.errors import InputError


def rows(split):
    """Each example as bytes, for counting."""
    return Counter(image.tobytes() + bytes([label]) for image, label in zip(split.images, split.labels, strict=True))


@pytest.fixture(scope="module")
def digits():
    return small.load("digits")


READING = """
import pickle, sys
from resnet_jax.data import small
with open(sys.argv[2], "wb") as file:
    pickle.dump(small.load("cifar10", sys.argv[1]), file)
print("tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def read_by_a_process(test_data, tmp_path_factory):
    """CIFAR-10, and whether reading it, which takes many seconds, imported TensorFlow."""
    path = tmp_path_factory.mktemp("cifar10") / "cifar10.pickle"
    command = [sys.executable, "-c", READING, str(test_data / "tfds"), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    with path.open("rb") as file:
        return pickle.load(file), run.stdout.strip()


@pytest.fixture(scope="module")
def cifar10(read_by_a_process):
    return read_by_a_process[0]


def test_digits_are_sklearns_divided_once(digits):
    scans = load_digits()
    expected = Counter(
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() + bytes([label])
        for image, label in zip(scans.images, scans.target, strict=True)
    )
    assert rows(digits.train) + rows(digits.test) == expected
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == np.int32
    assert digits.class_names == tuple("0123456789")
    # 17 grey levels, spread over all of 0 to 255.
    assert np.array_equal(np.unique(digits.train.images), np.rint(np.arange(17) * 255 / 16))


def test_digits_are_divided_as_sklearn_divides(digits):
    """Also in their order: the batches of a run are made by it."""
    scans = load_digits()
    images = np.rint(scans.images * (255 / 16)).astype(np.uint8)[..., None]
    divided = train_test_split(np.arange(len(images)), test_size=0.2, stratify=scans.target, random_state=0)
    for split, rows in zip((digits.train, digits.test), divided, strict=True):
        assert np.array_equal(split.images, images[rows])
        assert np.array_equal(split.labels, scans.target[rows])
    parts = np.bincount(load_digits().target) / 5
    assert np.abs(np.bincount(digits.test.labels) - parts).max() < 1


@pytest.mark.parametrize("held", [None, "1,2\n3,4\n", "no numbers\n"])
def test_digits_that_sklearn_keeps_elsewhere(digits, tmp_path, monkeypatch, held):
    """Another version may have the file in another place or form."""
    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    if held is not None:
        with gzip.open(folder / "digits.csv.gz", "wt") as file:
            file.write(held)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    small._load.cache_clear()
    again = small.load("digits")
    small._load.cache_clear()
    for split in ("train", "test"):
        assert np.array_equal(getattr(again, split).images, getattr(digits, split).images)
        assert np.array_equal(getattr(again, split).labels, getattr(digits, split).labels)


def test_validation_images_are_kept_back_from_training(digits):
    first, second = (small.load("digits", validation_images=300) for _ in range(2))
    assert (len(first.train), len(first.validation)) == (1137, 300)
    assert rows(first.train) + rows(first.validation) == rows(digits.train)
    assert rows(first.test) == rows(digits.test)
    assert np.array_equal(first.validation.images, second.validation.images)
    assert digits.validation is None


def test_a_part_of_a_split_is_a_split(digits):
    for split in (digits.test, jax.device_put(digits.test)):
        for rows in (slice(10), range(10), np.arange(10), list(range(10)), np.arange(360) < 10):
            part = split[rows]
            assert (type(part), part.images.shape, len(part)) == (small.Split, (10, 8, 8, 1), 10)
            assert np.array_equal(part.labels, digits.test.labels[:10])
        image, label = split[-1]
        assert np.array_equal(image, digits.test.images[359])
        assert label == digits.test.labels[359]
        with pytest.raises(IndexError):
            split[360]
    assert len(list(digits.test[:3])) == 3  # images with their labels


def test_what_holds_images_is_shown_in_a_few_lines(digits):
    assert repr(digits.test) == "Split(images=uint8 (360, 8, 8, 1), labels=int32 (360,))"
    assert repr(digits).endswith(", class_names=('0', '1', '2', … 10 in all))")
    batch = Batch(digits.test.images, digits.test.labels)
    assert repr(batch) == "Batch(images=uint8 (360, 8, 8, 1), labels=int32 (360,), weights=None)"
    image = EncodedImage(bytes(2000), 3, "a.jpg")
    assert repr(image) == "EncodedImage(data=2,000 bytes, label=3, name='a.jpg')"
    names, labels = np.array([b"a.jpg"] * 9), np.zeros(9, np.int32)
    source = FolderImages("photos", names, labels)
    split = ImageSplit(source, 16, 18, 0, 0.01, print)
    for shown in (
        digits,
        source,
        split,
        ImageFolder(split, split, ("cat",) * 1000),
        Preprocessing(np.zeros((8, 8, 1))),
    ):
        assert len(repr(shown)) < 600
    assert str(jax.tree.structure(digits.test))  # without arrays
    assert repr(jax.eval_shape(lambda: digits.test)).startswith("Split(images=uint8 (360, 8, 8, 1)")


@pytest.mark.test_data
def test_cifar10(cifar10):
    assert cifar10.train.images.shape == (50_000, 32, 32, 3)
    assert cifar10.test.images.shape == (10_000, 32, 32, 3)
    assert cifar10.train.images.dtype == np.uint8
    assert np.bincount(cifar10.train.labels).tolist() == [5_000] * 10
    assert np.bincount(cifar10.test.labels).tolist() == [1_000] * 10
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert cifar10.class_names == tuple(names.split())


@pytest.mark.test_data
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_is_what_tfds_decodes(cifar10, test_data, split):
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split=split, data_dir=test_data / "tfds", download=False)
    ours = getattr(cifar10, split)
    for i in (*range(20), len(ours) - 1):
        assert np.array_equal(ours.images[i], source[i]["image"])
        assert ours.labels[i] == source[i]["label"]


@pytest.mark.test_data
def test_the_papers_45k_and_5k(cifar10, test_data, monkeypatch):
    monkeypatch.setattr(small, "_cifar", lambda *_: cifar10)
    split = small.load("cifar10", str(test_data / "tfds"), validation_images=5_000)
    assert (len(split.train), len(split.validation), len(split.test)) == (45_000, 5_000, 10_000)
    # Which images is fixed: the order is NumPy's documented PCG64 with seed 0.
    held = np.sort(np.random.default_rng(0).permutation(50_000)[:5_000])
    assert np.array_equal(split.validation.images, cifar10.train.images[held])
    assert np.array_equal(split.train.images, np.delete(cifar10.train.images, held, 0))
    assert np.array_equal(split.train.labels, np.delete(cifar10.train.labels, held))


@pytest.mark.test_data
@pytest.mark.slow
def test_reading_imports_no_tensorflow(read_by_a_process):
    dataset, imported = read_by_a_process
    assert len(dataset.test) == 10_000
    assert imported == "False"


def test_unknown_names_and_impossible_splits():
    with pytest.raises(
        InputError, match=r"unknown data set 'mnist'.*digits, cifar10, cifar100; photographs are opened by image_"
    ):
        small.load("mnist")
    for count in (-1, 1437, 5_000):
        with pytest.raises(InputError, match=f"validation_images is {count}, but digits has 1437"):
            small.load("digits", validation_images=count)


def write_info(folder, **info):
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"absent does not exist; prepare it with: resnet-jax prepare --dataset=cif"):
        small.load("cifar10", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"does not hold 'cifar10' .it holds no prepared data set."):
        small.load("cifar10", str(tmp_path))
    write_info(tmp_path / "mnist" / "3.0.1")
    with pytest.raises(InputError, match=r"does not hold 'cifar10' .it holds mnist."):
        small.load("cifar10", str(tmp_path))


def test_data_in_another_file_format(tmp_path):
    write_info(tmp_path / "cifar10" / "3.0.2")
    (tmp_path / "cifar10" / "3.0.2" / "cifar10-test.tfrecord-00000-of-00001").touch()
    with pytest.raises(InputError, match="holds no array_record files"):
        small.load("cifar10", str(tmp_path))


def test_the_newest_version_is_the_one_of_the_largest_numbers(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.9"):
        write_info(tmp_path / "cifar10" / version)
        (tmp_path / "cifar10" / version / "cifar10-test.array_record-00000-of-00001").touch()
    assert tfds.prepared_folder("cifar10", tmp_path).name == "3.0.10"


@pytest.mark.test_data
def test_another_data_set_under_this_name(test_data, tmp_path):
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "3.0.2").symlink_to(test_data / "tfds" / "cifar10" / "3.0.2")
    with pytest.raises(InputError, match="holds the data set 'cifar10', not 'cifar100'"):
        small.load("cifar100", str(tmp_path))


@pytest.mark.test_data
def test_damaged_data(test_data, tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for file in (test_data / "tfds" / "cifar10" / "3.0.2").iterdir():
        if "test" in file.name:  # read after the training images
            (folder / file.name).write_bytes(file.read_bytes())
        elif "array_record" in file.name:
            (folder / file.name).write_bytes(file.read_bytes()[:100_000])
        else:
            (folder / file.name).symlink_to(file)
    with pytest.raises(InputError, match=r"the train split in .*3\.0\.2 cannot be read"):
        small.load("cifar10", str(tmp_path))


class Source(list):
    """Records in memory."""

    def __getitems__(self, places):
        return [self[place] for place in places]


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """Makes tmp_path/NAME hold a prepared CIFAR-10 of one image in each split, whose bytes are given."""

    def open_records(name, data_dir, splits):
        (file,) = Path(data_dir).rglob("*.array_record")
        record = {"image": file.read_bytes(), "label": 0}
        return tfds.Records(tmp_path, {split: Source([record]) for split in splits}, ("a",), "3.0.2")

    monkeypatch.setattr(small, "open_records", open_records)

    def write(name, data):
        folder = tmp_path / name / "cifar10" / "3.0.2"
        if not folder.exists():
            write_info(folder)
        (folder / "all.array_record").write_bytes(data)

    return write


def test_an_image_that_is_none(fake_cifar, tmp_path):
    fake_cifar("data", b"no image")
    with pytest.raises(InputError, match=rf"the train split in {tmp_path} cannot be read: it is in no image format"):
        small.load("cifar10", str(tmp_path / "data"))


def grey(level):
    """The bytes of a PNG of one pixel."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def test_data_are_read_once_while_they_stay_as_they_are(fake_cifar, tmp_path, monkeypatch):
    fake_cifar("one", grey(1))
    fake_cifar("two", grey(2))
    monkeypatch.chdir(tmp_path)
    first = small.load("cifar10", "one")
    assert small.load("cifar10", str(tmp_path / "one")) is first
    assert first.train.images.ravel().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        first.train.images[0] = 7
    # The same words, and other data.
    fake_cifar("one", grey(3))
    assert small.load("cifar10", "one").test.images.ravel().tolist() == [3, 3, 3]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "two").rename(tmp_path / "elsewhere" / "one")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert small.load("cifar10", "one").test.images.ravel().tolist() == [2, 2, 2]


def test_prepare_without_tensorflow(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    with pytest.raises(InputError, match=r"needs TensorFlow.*pip install tensorflow$"):
        tfds.prepare("cifar10", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_prepare_of_what_needs_none(test_data):
    with pytest.raises(InputError, match="ships inside scikit-learn"):
        tfds.prepare("digits")
    with pytest.raises(InputError, match="unknown data set 'mnist'"):
        tfds.prepare("mnist")
    assert tfds.prepare("cifar10", str(test_data / "tfds")) == test_data / "tfds" / "cifar10" / "3.0.2"
