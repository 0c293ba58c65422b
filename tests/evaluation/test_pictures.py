"""Photographs as people have them, on their way through caches, training and evaluation."""

import unicodedata

import numpy as np
import pytest
from networks import save_run
from PIL import Image

from resnet_jax.configs import folder as folder_config
from resnet_jax.data.cache import write_cache
from resnet_jax.data.decode import decode
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping, TrainBatches
from resnet_jax.data.tiles import TiledJpeg
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.inputs import open_input

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def photograph(seed):
    """Smooth, and in no way the same when it is turned."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of six and four photographs, every other one taken with the camera turned."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(10):
        folder = root / ("train" if number < 6 else "val") / (DECOMPOSED, "zebra")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tags = Image.Exif()
        tags[274] = (1, 1, 6, 8)[number % 4]
        photograph(number).save(folder / f"{number}.jpg", quality=95, exif=tags)
    return root


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_a_cache_keeps_photographs_upright(photos, tmp_path, form):
    write_cache(open_images("folder", photos), tmp_path / "cache", form=form, log=lambda line: None)
    files, cache = open_images("folder", str(photos)), open_images("cache", str(tmp_path / "cache"))
    shapes = set()
    for split, kept in ((files.train, cache.train), (files.validation, cache.validation)):
        for index in range(len(split)):
            expected, found = decode(split[index].data), kept[index].data
            assert isinstance(found, TiledJpeg if form == "jpeg" else np.ndarray)
            assert decode(found).shape == expected.shape
            assert np.abs(decode(found) - expected.astype(int)).mean() < (1 if form == "jpeg" else 1e-9)
            shapes.add(expected.shape)
    assert shapes == {(64, 96, 3), (96, 64, 3)}
    assert cache.class_names == files.class_names


def test_a_cache_that_ignored_orientation_is_another_cache(photos, tmp_path):
    write_cache(open_images("folder", photos), tmp_path / "cache", log=lambda line: None)
    metadata = tmp_path / "cache" / "cache.json"
    metadata.write_text(metadata.read_text().replace('"orientation": "upright"', '"orientation": null'))
    with pytest.raises(InputError, match="another cache, which differs in orientation"):
        write_cache(open_images("folder", photos), tmp_path / "cache", log=lambda line: None)


@pytest.fixture(scope="module")
def caches(photos, tmp_path_factory):
    """Of a shorter side of 40 and of 64, which is that of the photographs."""
    root = tmp_path_factory.mktemp("caches")
    for side in (40, 64):
        write_cache(open_images("folder", photos), root / str(side), resize_size=side, log=lambda line: None)
    return root


@pytest.mark.parametrize(
    ("kept", "fields", "wanted"),
    [
        (
            40,
            {"crop": "random_scale", "scales": (32, 48), "resize_size": 36},
            "config.stream.scales up to 48 are wanted",
        ),
        (
            40,
            {"crop": "random_scale", "scales": (32, 40), "resize_size": 44},
            "config.stream.resize_size up to 44 are wanted",
        ),
        (40, {"crop": "random_resized_crop", "resize_size": 40}, "config.stream.crop up to 113 are wanted"),
        (40, {"crop": "random_scale", "scales": (32, 40), "resize_size": 40}, None),
        (64, {"crop": "random_scale", "scales": (32, 48), "resize_size": 36}, None),
    ],
)
def test_training_says_that_a_cache_keeps_less_than_it_wants(caches, kept, fields, wanted):
    config = folder_config.get_config()
    config.model.update(family="cifar_resnet", depth=8, shortcut="A")
    config.dataset.update(name="cache", data_dir=str(caches / str(kept)))
    config.stream.update(image_size=32, **fields)
    config.train.batch_size, config.mesh.data = 2, 1
    said = []
    open_input(config, make_mesh(1), said.append).close()
    if wanted is None:
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"the cache keeps at most 40 pixels of an image's shorter side, but {wanted}")


@pytest.mark.slow
def test_evaluation_of_accents_and_of_a_small_cache(photos, caches, tmp_path):
    """The run knows the class by the name that macOS gives its folder, the data by another; and the other way round."""
    pictures = np.stack([np.asarray(photograph(number).resize((32, 32))) for number in range(4)])
    names = open_images("folder", str(photos)).class_names
    assert names == (DECOMPOSED, "zebra")
    save = {"dataset": "folder", "data_dir": str(photos)}
    run = save_run(tmp_path / "run", (COMPOSED, "zebra"), pictures, [0, 1, 0, 1], **save)
    said = []
    assert evaluate_runs([run], log=said.append)["images"] == 4
    assert said == []
    # It shows photographs at a shorter side of 37.
    evaluate_runs([run], dataset="cache", data_dir=str(caches / "40"), log=said.append)
    assert said == []
    evaluate_runs(
        [run], dataset="cache", data_dir=str(caches / "40"), protocol="dense", scales=(32, 64), log=said.append
    )
    (line,) = said
    assert "at most 40 pixels of an image's shorter side, but the greatest of the scales up to 64" in line
    assert "prepare cache --resize_size=64" in line
    other = save_run(tmp_path / "other", ("e", "zebra"), pictures, [0, 1, 0, 1], **save)
    with pytest.raises(InputError, match="class 0 is 'e' in"):
        evaluate_runs([other])
    with pytest.raises(InputError, match=r"class 0 is 'e' in .*other"):
        evaluate_runs([run, other])


def test_files_with_damage_of_any_kind_are_replaced_in_training(photos, tmp_path):
    """A changed byte of an AVIF was a RuntimeError, which ended the run."""
    root = tmp_path / "photos"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            photograph(1).save(root / split / name / "0.png")
            photograph(2).save(root / split / name / "1.avif", quality=90)
    damaged = root / "train" / "b" / "1.avif"
    data = bytearray(damaged.read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 40] = bytes(40)
    damaged.write_bytes(data)
    opened = open_images("folder", str(root))
    batches = TrainBatches(
        opened.train, Cropping("random_resized_crop", (32, 32), 32), seed=0, batch_size=4, start=0, num_workers=0
    )
    batch = next(batches)
    batches.close()
    assert sorted(batch.damaged.tolist()) == [-1, -1, -1, 3]
