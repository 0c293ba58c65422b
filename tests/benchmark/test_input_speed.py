"""What the benchmark of the input reports is consistent; how fast anything is, no test says."""

import itertools
import json

import numpy as np
import pytest
from input_speed import input_speed, pillow_window
from PIL import Image

from resnet_jax.benchmark import input as reading, input_benchmark
from resnet_jax.benchmark.input import Loader, Round, loader_table, measure
from resnet_jax.cli.benchmarks import benchmark_input
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping
from resnet_jax.data.tiles import encode_tiles
from resnet_jax.distributed.machine import available_cores
from resnet_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    down, across = np.linspace(0, 255, 300)[:, None], np.linspace(0, 255, 400)
    for split, name in itertools.product(("train", "val"), "abc"):
        (root / split / name).mkdir(parents=True)
        image = np.stack(np.broadcast_arrays(down, across, 80 * "abc".index(name)), -1).astype(np.uint8)
        Image.fromarray(image).save(root / split / name / "1.jpg")
    return str(root)


@pytest.mark.slow
def test_the_result(folder, capsys):
    flags = ["--dataset=folder", f"--data_dir={folder}", "--batch_size=2", "--seconds=0.05", "--workers=0,1"]
    input_speed([*flags, "--crop=random_resized_crop", "--rounds=2", "--format=json"])
    result = json.loads(capsys.readouterr().out)
    cores = available_cores()
    names = ["Pillow", "windows", f"stream, {cores} threads", "stream, 1 workers"]
    assert [row["name"] for row in result["loaders"]] == names
    assert [row["cores"] for row in result["loaders"]] == [1, 1, cores, 1]
    for row in result["loaders"]:
        for field in ("images_per_second", "images_per_second_per_core", "relative_speed"):
            assert 0 < row[field]["q1"] <= row[field]["median"] <= row[field]["q3"]
            assert row[field]["n"] == 2
        ratio = row["images_per_second"]["median"] / row["images_per_second_per_core"]["median"]
        assert ratio == pytest.approx(row["cores"])
    assert result["images"] == 3
    assert result["arguments"] == {
        "dataset": "folder",
        "data_dir": folder,
        "crop": "random_resized_crop",
        "batch_size": 2,
        "workers": [0, 1],
        "rounds": 2,
        "seconds": 0.05,
    }

    input_speed([*flags, "--rounds=1"])
    text = capsys.readouterr().out
    assert "workers=0,1" in text
    assert all(f"\n  {name} " in text for name in names)
    assert "3 images; medians and quartiles of 1 rounds" in text


def test_medians_quartiles_and_ratios_of_rounds_in_turn():
    called = []

    def loader(name, cores, rounds):
        ahead = iter(rounds)

        def run(seconds):
            called.append((name, seconds))
            return next(ahead)

        return Loader(name, cores, run)

    # The first round of each is not counted.
    slow = loader("slow", 1, [Round(1, 9, 9), Round(10, 1, 1), Round(40, 2, 2), Round(90, 3, 3)])
    fast = loader("fast", 2, [Round(1, 9, 9), Round(40, 1, 1), Round(160, 2, 4), Round(180, 3, 6)])
    unknown = loader("unknown", 4, [Round(1, 9, 9), Round(40, 1, None), Round(160, 2, 4), Round(180, 3, 6)])
    rows = measure([slow, fast, unknown], rounds=3, seconds=7)
    assert called == 4 * [("slow", 7), ("fast", 7), ("unknown", 7)]
    assert rows[0]["images_per_second"] == {"median": 20, "q1": 15, "q3": 25, "n": 3}
    assert rows[0]["relative_speed"] == {"median": 1, "q1": 1, "q3": 1, "n": 3}
    # 40, 80 and 60 images per second, on two cores; 40, 40 and 30 per processor second.
    assert rows[1]["images_per_second"]["median"] == 60
    assert rows[1]["images_per_second_per_core"] == {"median": 30, "q1": 25, "q3": 35, "n": 3}
    assert rows[1]["images_per_cpu_second"]["median"] == 40
    # By round: 20 / 10, 40 / 20 and 30 / 30; 40 / 10, 40 / 20 and 30 / 30.
    assert rows[1]["relative_speed"] == {"median": 2, "q1": 1.5, "q3": 2, "n": 3}
    assert rows[1]["relative_cpu_speed"] == {"median": 2, "q1": 1.5, "q3": 3, "n": 3}
    assert rows[2]["images_per_cpu_second"] is rows[2]["relative_cpu_speed"] is None
    assert rows[2]["relative_speed"]["median"] == 1
    fields = loader_table(rows).splitlines()[-1].split()
    assert fields == ["unknown", "4", "60", "(50–70)", "15", "?", "1.00", "?"]


def test_the_cores_that_feed_a_device(folder, monkeypatch, capsys):
    asked = {}

    def train_benchmark(model, **fields):
        asked.update(fields, model=model)
        return {"variants": [{"images_per_second": 1600.0}]}

    monkeypatch.setattr(reading, "train_benchmark", train_benchmark)
    monkeypatch.setattr(reading, "make_loaders", lambda *_: [Loader("slow", 4, lambda seconds: Round(200, 1, 1))])
    benchmark_input(["--dataset=folder", f"--data_dir={folder}", "--model=resnet50", "--rounds=2", "--format=json"])
    result = json.loads(capsys.readouterr().out)
    assert asked["model"] == "resnet50"
    assert (asked["batch_size"], asked["image_size"], asked["input"]) == (256, 224, "synthetic")
    # Each of 8 devices takes 200 images per second, and a core gives 50.
    assert result["step_images_per_second"] == 200
    assert result["loaders"][0]["cores_per_device"] == 4
    benchmark_input(["--dataset=folder", f"--data_dir={folder}", "--model=resnet50"])
    text = capsys.readouterr().out
    assert text.splitlines()[-1].split()[-1] == "4.0"
    assert "200.0 images/s of resnet50 on one device" in text


def test_small_windows_are_read(folder):
    result = input_benchmark("folder", folder, image_size=8, batch_size=2, rounds=1, seconds=0.01)
    assert [row["name"] for row in result["loaders"]] == ["windows", f"stream, {available_cores()} threads"]
    assert all(row["images_per_second"]["median"] > 0 for row in result["loaders"])
    assert result["step_images_per_second"] is None
    assert "cores_per_device" not in result["loaders"][0]
    assert result["arguments"]["image_size"] == 8
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
@pytest.mark.usefixtures("known_peaks")
def test_a_step_of_the_model_is_measured(folder):
    fields = {"image_size": 8, "batch_size": 8, "rounds": 1, "seconds": 0.01}
    result = input_benchmark("folder", folder, **fields, model="cifar_resnet8")
    for row in result["loaders"]:
        speed = row["images_per_second_per_core"]["median"]
        assert row["cores_per_device"] == pytest.approx(result["step_images_per_second"] / speed)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": "center"}, "crop is 'center', but it must be one of random_resized_crop, random_scale"),
        ({"rounds": 0}, "rounds is 0"),
        ({"seconds": 0}, "seconds is 0, but it must be a number above 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"workers": 2}, "workers is 2, but it must be a list"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"workers": [0, -1]}, "workers is -1"),
        ({"workers": []}, r"workers is \[\], but"),
        ({"model": "resnet56"}, "did you mean 'cifar_resnet56'"),
    ],
)
def test_arguments_that_cannot_be(folder, wrong, message):
    with pytest.raises(InputError, match=message):
        input_benchmark("folder", folder, **wrong)


@pytest.mark.parametrize("crop", ["random_scale", "random_resized_crop"])
def test_pillows_windows_are_those_of_training(folder, crop):
    image_file = open_images("folder", folder).train[1]
    cropping = Cropping(crop, (256, 480), 224)
    with Image.open(f"{folder}/train/b/1.jpg") as image:
        pixels = np.asarray(image)
    for seed in range(10):
        window = pillow_window(crop, image_file.data, np.random.default_rng(seed)).astype(int)
        assert window.shape == (224, 224, 3)
        # A pixel of the ramps is 0.6 to 0.9 grey levels.
        assert np.abs(window - cropping(image_file.data, np.random.default_rng(seed))).mean() < 1
        for data in (pixels, encode_tiles(pixels, 95, image_file.data)):
            other = pillow_window(crop, data, np.random.default_rng(seed))
            assert np.abs(window - other).max() <= (0 if data is pixels else 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--crop=center", "--crop=center is not one of random_scale, random_resized_crop"),
        ("--rounds=0", "--batch_size and --rounds are at least 1"),
        ("--seconds=0", "--seconds above 0"),
        ("--workers=0,-1", "--workers at least 0"),
        ("--workers=x", "--workers=x is wrong: it must be a whole number"),
        ("--dataset=flowers", "unknown data set 'flowers'"),
    ],
)
def test_wrong_arguments_are_refused(folder, wrong, message):
    with pytest.raises(InputError, match=message):
        input_speed(["--dataset=folder", f"--data_dir={folder}", wrong])
