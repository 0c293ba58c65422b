"""What a cache holds against Pillow's own resizing of the files, and what becomes of one that was interrupted."""

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import cache, sequential, stream
from resnet_jax.data.cache import write_cache
from resnet_jax.data.decode import decode
from resnet_jax.data.images import open_images
from resnet_jax.data.tiles import TiledJpeg
from resnet_jax.errors import InputError

# Of each photograph: its mode, its height and width, its format.
PHOTOGRAPHS = {
    "train/a/1.jpg": ("RGB", (90, 150), "JPEG"),
    "train/a/2.JPEG": ("L", (101, 64), "JPEG"),
    "train/a/3.jpg": ("CMYK", (70, 71), "JPEG"),
    "train/b/4.png": ("RGBA", (64, 200), "PNG"),
    "train/b/5.jpg": ("RGB", (40, 33), "JPEG"),
    "train/b/6.jpg": ("RGB", (333, 95), "JPEG"),
    "val/b/7.jpg": ("RGB", (80, 80), "JPEG"),
    "val/b/8.png": ("RGB", (48, 49), "PNG"),
}
DAMAGED = ("train/a/0.jpg", "train/b/55.jpg")


def smooth(mode, height, width):
    channels = len(Image.new(mode, (1, 1)).getbands())
    down, across = np.linspace(0, 200, height)[:, None], np.linspace(0, 255, width)
    ramps = np.stack([(down * i + across * (channels - i)) / channels for i in range(channels)], -1).astype(np.uint8)
    return Image.fromarray(ramps[..., 0] if mode == "L" else ramps, mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for name, (mode, size, file_format) in PHOTOGRAPHS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        smooth(mode, *size).save(root / name, file_format)
    (root / DAMAGED[0]).write_bytes(b"")
    (root / DAMAGED[1]).write_bytes((root / "train/b/6.jpg").read_bytes()[:900])
    return root


def write(folder, to, said=None, **options):
    log = (said if said is not None else []).append
    write_cache(open_images("folder", folder, log), to, **options, log=log)
    return open_images("cache", str(to))


@pytest.fixture(scope="module")
def caches(folder, tmp_path_factory):
    """(the opened cache, its folder, what was said) of each form, at a shorter side of 64."""
    found = {}
    for form in cache.FORMS:
        said, to = [], tmp_path_factory.mktemp("caches") / form
        found[form] = write(folder, to, said, form=form, resize_size=64), to, said
    return found


def pillows(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def expected(folder, name, resize_size=64):
    """Pillow's own resizing."""
    image = pillows(folder / name)
    if min(image.size) > resize_size:
        scaled = [length * resize_size // min(image.size) for length in image.size]
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    return np.asarray(image)


def splits(opened):
    return {"train": opened.train, "val": opened.validation}.items()


@pytest.mark.parametrize("form", cache.FORMS)
def test_names_labels_and_classes(caches, form):
    opened, _, _ = caches[form]
    assert opened.class_names == ("a", "b")
    for split, photographs in splits(opened):
        names = [name for name in PHOTOGRAPHS if name.startswith(split)]
        assert len(photographs) == len(names)
        found = [photographs[index] for index in range(len(photographs))]
        assert [photograph.name for photograph in found] == names
        assert [photograph.label for photograph in found] == ["ab".index(name.split("/")[1]) for name in names]


def test_raw_pixels_are_pillows(caches, folder):
    for _, photographs in splits(caches["raw"][0]):
        for index in range(len(photographs)):
            data, _, name = photographs[index]
            np.testing.assert_array_equal(data, expected(folder, name))
            assert data.dtype == np.uint8
            # They lie in the file, not in this process.
            assert not data.flags.owndata
            assert not data.flags.writeable


def test_jpegs_in_tiles(caches, folder):
    for _, photographs in splits(caches["jpeg"][0]):
        for index in range(len(photographs)):
            data, _, name = photographs[index]
            assert isinstance(data, TiledJpeg)
            image, theirs = decode(data), expected(folder, name)
            assert image.shape == theirs.shape
            assert np.abs(image.astype(int) - theirs).mean() < 2, name


def test_jpegs_keep_their_size_and_their_quantisation_by_default(folder, tmp_path):
    opened = write(folder, tmp_path / "cache", form="jpeg")
    for _, photographs in splits(opened):
        for index in range(len(photographs)):
            data, _, name = photographs[index]
            (tmp_path / "one.jpg").write_bytes(data.data)
            with Image.open(tmp_path / "one.jpg") as ours, Image.open(folder / name) as theirs:
                assert ours.size == theirs.size
                assert ours.mode == ("L" if theirs.mode == "L" else "RGB")
                if theirs.format == "JPEG" and theirs.mode != "CMYK":
                    assert ours.quantization == theirs.quantization


def test_a_raw_cache_is_256_pixels_high_by_default(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "photographs")
    smooth("RGB", 300, 420).save(tmp_path / "photographs" / "train" / "a" / "1.jpg", "JPEG")
    opened = write(tmp_path / "photographs", tmp_path / "cache")
    assert opened.train[0].data.shape == (256, 358, 3)


def test_workers_get_a_copy_of_the_name_only(caches):
    train = caches["raw"][0].train
    _ = train[0].data
    assert len(pickle.dumps(train)) < 500
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(train))[1].data, train[1].data)


@pytest.mark.slow
def test_training_on_a_raw_cache_is_training_on_the_files(folder, tmp_path):
    """With what is damaged left out, and nothing resized; two workers map the cache."""
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    for name in DAMAGED:
        (whole / name).unlink()
    cached = write(whole, tmp_path / "cache", form="raw", resize_size=400)
    cropping = stream.Cropping("random_resized_crop", (0, 0), 32)
    batches = []
    for photographs, workers in ((open_images("folder", str(whole)).train, 0), (cached.train, 2)):
        found = stream.TrainBatches(photographs, cropping, seed=0, batch_size=6, start=3, num_workers=workers)
        with contextlib.closing(found):
            batches.append([next(found) for _ in range(3)])
    for files, ours in zip(*batches, strict=True):
        np.testing.assert_array_equal(files.labels, ours.labels)
        # Windows that shrink to a half are reduced by the decoder in one, by averages in the other.
        assert np.abs(files.images.astype(int) - ours.images).mean() < 1


@pytest.mark.parametrize("form", cache.FORMS)
def test_damaged_photographs_are_left_out_named_and_counted(caches, form):
    _, to, said = caches[form]
    for name in DAMAGED:
        assert [line for line in said if line.startswith(f"{name} is damaged (")]
    assert "2 damaged ones are left out" in said[-1]
    metadata = json.loads((to / "cache.json").read_text())
    assert metadata["damaged"] == list(DAMAGED)
    assert metadata["damaged_count"] == 2
    assert metadata["photographs"] == {"train": 6, "validation": 2}
    assert metadata["bytes"] == sum((to / name).stat().st_size for name in metadata["files"])


def test_nothing_but_damage(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "photographs")
    for name in PHOTOGRAPHS:
        if name.startswith("val"):
            (tmp_path / "photographs" / name).write_bytes(b"no image")
    with pytest.raises(InputError, match="all of 2 images of the validation split are damaged"):
        write(tmp_path / "photographs", tmp_path / "cache")


def test_each_cache_has_a_crc_of_its_own(caches, folder, tmp_path):
    again = write(folder, tmp_path / "again", form="raw", resize_size=64)
    smaller = write(folder, tmp_path / "smaller", form="raw", resize_size=63)
    coarser = write(folder, tmp_path / "coarser", form="jpeg", resize_size=64, quality=50)
    raw, jpeg = (caches[form][0].crc for form in ("raw", "jpeg"))
    assert again.crc == raw
    assert len({raw, jpeg, smaller.crc, coarser.crc, open_images("folder", str(folder)).crc}) == 5


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", cache.FORMS)
def test_going_on_where_it_was_interrupted(caches, folder, tmp_path, monkeypatch, form):
    monkeypatch.setattr(cache, "_SHARD", 2)
    monkeypatch.setattr(cache, "_check_space", lambda *_: None)
    options = {"form": form, "resize_size": 64}
    uninterrupted = write(folder, tmp_path / "uninterrupted", **options)
    read, to = [], tmp_path / "cache"

    def encode(data, **kwargs):
        read.append(data)
        if len(read) == 7:
            raise KeyboardInterrupt
        return original(data, **kwargs)

    original = cache._encode
    monkeypatch.setattr(cache, "_encode", encode)
    monkeypatch.setattr(sequential, "available_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        write(folder, to, **options)
    done = {path.name: path.stat().st_ino for path in to.glob("*.photographs")}
    assert len(done) == 3
    with pytest.raises(InputError, match="is not complete: go on with resnet-jax prepare cache") as refused:
        open_images("cache", str(to))
    for option in (f"--output={to}", f"--form={form}", "--resize_size=64", "--dataset=folder"):
        assert option in str(refused.value).split()

    read.clear()
    read += [None] * 100
    opened = write(folder, to, **options)
    assert len(read) == 100 + 4
    assert {name: (to / name).stat().st_ino for name in done} == done
    # But for the folder's name in the command, it is what it would have been.
    ours, theirs = contents(to), contents(tmp_path / "uninterrupted")
    for each in (ours, theirs):
        each.pop("cache.json")
    assert ours == theirs
    assert opened.crc == uninterrupted.crc == caches[form][0].crc

    said = []
    write(folder, to, said, **options)
    assert said == [f"the cache in {to} is complete"]
    assert len(read) == 100 + 4


def test_another_cache_in_the_folder(caches, folder, tmp_path):
    to = caches["jpeg"][1]
    before = contents(to)
    with pytest.raises(InputError, match=r"differs in quality .95 there, 80 asked for.: use another folder"):
        write(folder, to, form="jpeg", resize_size=64, quality=80)
    with pytest.raises(InputError, match=r"form .'jpeg' there, 'raw' asked for.*shorter_side .64 there, 256 asked"):
        write(folder, to, form="raw")
    shutil.copytree(folder, tmp_path / "photographs")
    smooth("L", 9, 9).save(tmp_path / "photographs" / "val" / "a.png")
    (tmp_path / "photographs" / "val" / "a").mkdir()
    smooth("L", 9, 9).save(tmp_path / "photographs" / "val" / "a" / "more.png")
    with pytest.raises(InputError, match="differs in source_crc"):
        write(tmp_path / "photographs", to, form="jpeg", resize_size=64)
    with pytest.raises(InputError, match="holds something else than a cache"):
        write(folder, folder)
    assert contents(to) == before


def test_no_space(folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    # The raw training photographs of 64 pixels have 27,000 bytes on average, and there are 10 of all kinds.
    said = []
    write(folder, tmp_path / "first", said, resize_size=64)
    needed = 10 * sum(expected(folder, name).nbytes for name in PHOTOGRAPHS if name.startswith("train")) / 8
    for free, refused in ((0.99 * needed, True), (1.01 * needed, False)):
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with (
            pytest.raises(InputError, match=r"10 images take about .* use another folder")
            if refused
            else (contextlib.nullcontext())
        ):
            write(folder, tmp_path / "cache", resize_size=64)
    assert said[0].startswith("10 images take about 0.00 GB in ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "png"}, "form is 'png', but it must be one of raw, jpeg"),
        ({"resize_size": 0}, "resize_size is 0, but it must be at least 1"),
        ({"form": "jpeg", "quality": 101}, "quality is 101, but it must be from 1 to 100"),
    ],
)
def test_wrong_arguments(folder, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write(folder, tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[]", b"{}", b'{"settings": {}}'])
def test_a_damaged_description_of_a_cache(folder, tmp_path, text):
    (tmp_path / "cache.json").write_bytes(text)
    with pytest.raises(InputError, match="is no cache of images"):
        open_images("cache", str(tmp_path))
    with pytest.raises(InputError, match="is damaged: remove"):
        write(folder, tmp_path)


def test_what_is_no_cache(caches, folder, tmp_path):
    with pytest.raises(InputError, match="data_dir is missing"):
        open_images("cache", None)
    with pytest.raises(InputError, match="is no cache of images"):
        open_images("cache", str(folder))
    for spoil, message in (
        (lambda path: path.unlink(), r"should have \d+ bytes and has none: copy the cache once more"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"should have \d+ bytes and has \d+: copy"),
    ):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(caches["raw"][1], copy)
        open_images("cache", str(copy))
        spoil(copy / "train-00000.photographs")
        with pytest.raises(InputError, match=message):
            open_images("cache", str(copy))


@pytest.mark.test_data
def test_imagenet(test_data, tmp_path):
    source = open_images("imagenet2012", str(test_data / "tfds"))
    write_cache(source, tmp_path, form="raw", resize_size=96, log=print)
    opened = open_images("cache", str(tmp_path))
    assert (len(opened.train), len(opened.validation)) == (len(source.train), len(source.validation))
    assert opened.class_names == source.class_names
    for index in range(0, len(source.train), 20):
        ours, theirs = opened.train[index], source.train[index]
        assert (ours.label, ours.name) == (theirs.label, theirs.name)
        assert min(ours.data.shape[:2]) == 96


def test_another_cache_in_the_same_folder_is_another_cache(folder, tmp_path, monkeypatch):
    """In one process, as in a notebook; a folder that is named from where one stands may become another one."""
    monkeypatch.chdir(tmp_path)
    first = write(folder, Path("cache"), resize_size=48).train
    kept = first[3].data.copy()
    shutil.rmtree("cache")
    second = write(folder, Path("cache"), resize_size=32).train
    np.testing.assert_array_equal(second[3].data, expected(folder, "train/b/4.png", 32))
    Path("below").mkdir()
    shutil.move("cache", "below/cache")
    write(folder, Path("cache"), resize_size=40)
    monkeypatch.chdir(tmp_path / "below")
    third = open_images("cache", "cache").train
    np.testing.assert_array_equal(third[3].data, expected(folder, "train/b/4.png", 32))
    # What is mapped stays as it was.
    np.testing.assert_array_equal(first[3].data, kept)
