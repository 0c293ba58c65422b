"""ImageNet as TFDS reads it, and folders of images that are as people leave them."""

import errno
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decode import decode
from resnet_jax.data.images import open_images
from resnet_jax.errors import InputError


def image_file(path, value=0):
    """Writes an image of one colour; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(path)


def opened(root):
    return open_images("folder", str(root))


def listed(photographs):
    """(name, label) of each photograph."""
    return [(photograph.name, photograph.label) for photograph in (photographs[i] for i in range(len(photographs)))]


@pytest.fixture
def folder(tmp_path):
    """Two classes, three and two photographs to train on, one of each to validate on."""
    names = ["train/dog/b.png", "train/dog/a.png", "train/dog/c.png", "train/Cat/1.png", "train/Cat/2.png"]
    for value, name in enumerate([*names, "val/dog/a.png", "val/Cat/9.png"]):
        image_file(tmp_path / "data" / name, 10 * value)
    return tmp_path / "data"


@pytest.mark.test_data
def test_imagenet_is_what_tfds_decodes(test_data):
    import tensorflow_datasets as tfds

    root = test_data / "tfds" / "imagenet2012" / "5.1.0"
    data = open_images("imagenet2012", str(test_data / "tfds"))
    assert (len(data.train), len(data.validation)) == (200, 100)
    assert data.class_names == tuple((root / "label.labels.txt").read_text().split())
    assert len(data.class_names) == 1000
    for split in ("train", "validation"):
        source = tfds.builder_from_directory(root).as_data_source(split)
        photographs = getattr(data, split)
        for i in (*range(0, len(photographs), 9), len(photographs) - 1):
            photograph = photographs[i]
            assert isinstance(photograph.data, bytes)
            np.testing.assert_array_equal(decode(photograph.data), source[i]["image"])
            assert photograph.label == source[i]["label"]
            assert photograph.name == source[i]["file_name"].decode()


@pytest.mark.test_data
def test_imagenet_in_a_worker(test_data):
    data = open_images("imagenet2012", str(test_data / "tfds"))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.crc == data.crc
    assert copy.train[7] == data.train[7]
    assert copy.validation[99] == data.validation[99]


def test_a_folder(folder):
    data = opened(folder)
    assert data.class_names == ("Cat", "dog")
    assert listed(data.train) == [
        ("train/Cat/1.png", 0),
        ("train/Cat/2.png", 0),
        ("train/dog/a.png", 1),
        ("train/dog/b.png", 1),
        ("train/dog/c.png", 1),
    ]
    assert listed(data.validation) == [("val/Cat/9.png", 0), ("val/dog/a.png", 1)]
    assert data.train[3].data == (folder / "train" / "dog" / "b.png").read_bytes()
    assert decode(data.validation[0].data).tolist() == np.full((5, 7, 3), 60).tolist()
    copy = pickle.loads(pickle.dumps(data.train))
    assert listed(copy) == listed(data.train)
    assert copy[2] == data.train[2]


def test_what_is_no_image_is_passed_over(folder):
    before = opened(folder)
    (folder / "train" / "dog" / "notes.txt").write_text("no image")
    (folder / "train" / "dog" / "jpg").write_text("no suffix")
    (folder / "train" / "dog" / "._a.png").write_text("what macOS writes beside a.png")
    (folder / "train" / "list.csv").write_text("no folder")
    (folder / "val" / "stray.png").write_bytes((folder / "val" / "dog" / "a.png").read_bytes())
    image_file(folder / "train" / ".cache" / "a.png")
    image_file(folder / "val" / ".cache" / "a.png")
    image_file(folder / "test" / "dog" / "a.png")
    after = opened(folder)
    assert after.class_names == before.class_names
    assert listed(after.train) == listed(before.train)
    assert listed(after.validation) == listed(before.validation)
    assert after.crc == before.crc


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "Png", "bmp", "gif", "tif", "tiff", "webp"])
def test_suffixes(folder, suffix):
    image_file(folder / "train" / "dog" / f"0.{suffix}")
    data = opened(folder)
    assert listed(data.train)[2] == (f"train/dog/0.{suffix}", 1)
    assert decode(data.train[2].data).shape == (5, 7, 3)


def test_a_link_to_a_class_and_a_home_directory(folder, tmp_path, monkeypatch):
    image_file(tmp_path / "elsewhere" / "x.png")
    (folder / "train" / "fox").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    data = open_images("folder", "~/data")
    assert data.class_names == ("Cat", "dog", "fox")
    assert listed(data.train)[-1] == ("train/fox/x.png", 2)


def test_a_class_without_validation_images(folder):
    image_file(folder / "train" / "ant" / "a.png")
    (folder / "val" / "Cat" / "9.png").unlink()
    data = opened(folder)
    assert data.class_names == ("Cat", "ant", "dog")
    assert listed(data.validation) == [("val/dog/a.png", 2)]


def without_classes(folder):
    (folder / "train").rename(folder / "x")
    (folder / "train").mkdir()


def without_validation_images(folder):
    (folder / "val" / "dog" / "a.png").unlink()
    (folder / "val" / "Cat" / "9.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder.rename(folder.with_name("gone")), r"data_dir=.*data does not exist"),
        (lambda folder: (folder / "train").rename(folder / "training"), r"train does not exist: .*data should hold"),
        (lambda folder: (folder / "val").rename(folder / "test"), r"val does not exist: .*data should hold"),
        (without_classes, "train holds no folders"),
        (lambda folder: (folder / "train" / "fox").mkdir(), r"train.fox holds no images \(.jpg, "),
        (lambda folder: image_file(folder / "val" / "fox" / "a.png"), "val holds the class 'fox', which .*train lacks"),
        (without_validation_images, "val holds no images .*: put some there$"),
    ],
)
def test_folders_that_cannot_be_used(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)


def test_no_folder_and_no_such_data_set(tmp_path):
    with pytest.raises(InputError, match=r"data_dir is missing"):
        open_images("folder", None)
    with pytest.raises(InputError, match=r"unknown data set 'mnist': it is one of imagenet2012, folder"):
        open_images("mnist", None)
    with pytest.raises(InputError, match="does not hold 'imagenet2012'"):
        open_images("imagenet2012", str(tmp_path))


def test_a_file_that_cannot_be_read_is_named(folder):
    data = opened(folder)
    (folder / "train" / "dog" / "b.png").unlink()
    (folder / "train" / "dog" / "a.png").unlink()
    (folder / "train" / "dog" / "a.png").mkdir()
    for index, name, reason in ((3, "b.png", "No such file or directory"), (2, "a.png", "Is a directory")):
        with pytest.raises(InputError, match=f"train/dog/{name} cannot be read: {reason}$"):
            data.train[index]


def test_a_file_without_permission_is_named(folder, monkeypatch):
    """What root, who may read everything, would be told."""
    data = opened(folder)

    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"train/dog/b.png cannot be read: Permission denied"):
        data.train[3]


def test_the_checksum_is_that_of_the_listing(folder, tmp_path):
    crcs = {opened(folder).crc}
    # Another image under an old name, and another place, are the same data set.
    image_file(folder / "train" / "dog" / "a.png", 99)
    folder = folder.rename(tmp_path / "other")
    assert {opened(folder).crc} == crcs

    changes = [
        lambda: (folder / "train" / "dog" / "c.png").rename(folder / "train" / "dog" / "d.png"),
        lambda: (folder / "train" / "dog" / "a.png").rename(folder / "train" / "Cat" / "a.png"),
        lambda: (folder / "train" / "Cat" / "a.png").rename(folder / "val" / "Cat" / "a.png"),
        lambda: image_file(folder / "train" / "ant" / "a.png"),
        lambda: (folder / "val" / "Cat" / "9.png").unlink(),
    ]
    for change in changes:
        change()
        assert opened(folder).crc not in crcs
        crcs.add(opened(folder).crc)
    assert all(0 <= crc < 2**32 for crc in crcs)


@pytest.mark.test_data
def test_the_checksum_of_imagenet_holds_its_version_and_sizes(test_data):
    data = open_images("imagenet2012", str(test_data / "tfds"))
    assert data.crc == zlib.crc32(b"imagenet2012 5.1.0 200 100")


def test_names_in_another_encoding_can_be_shown(folder):
    path = os.fsencode(folder / "train" / "dog") + b"/caf\xe9.png"
    os.rename(folder / "train" / "dog" / "b.png", path)
    photograph = opened(folder).train[4]
    with open(path, "rb") as file:
        assert photograph.data == file.read()
    photograph.name.encode()
    assert photograph.name.startswith("train/dog/caf")


def test_a_class_that_cannot_be_printed(folder):
    os.rename(folder / "train" / "dog", os.fsencode(folder / "train") + b"/caf\xe9")
    with pytest.raises(InputError, match="cannot be printed: give the class another name") as error:
        opened(folder)
    str(error.value).encode()
