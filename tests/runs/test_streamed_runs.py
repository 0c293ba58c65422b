"""Whole runs on a folder of photographs: what they leave, that they go on exactly, and what they say of bad data."""

import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.configs import folder as folder_config, parsing
from resnet_jax.data.images import open_images
from resnet_jax.errors import InputError
from resnet_jax.runs import build, checks, length, loop
from resnet_jax.runs.loading import load
from resnet_jax.training.state import create_state
from small_run import assert_same_run, lines_of, parts, saved_steps, train_until

FIELDS = {
    "model.family": "cifar_resnet",
    "model.depth": 8,
    "model.shortcut": "A",
    "stream.image_size": 24,
    "stream.scales": (24, 36),
    "stream.resize_size": 28,
    "stream.pca_lighting_std": 0.1,
    "stream.num_workers": 0,
    "optimizer.warmup_steps": 3,
    "train.batch_size": 8,
    "train.iterations": 12,
    "train.log_every": 2,
    "train.eval_every": 6,
    "train.checkpoint_every": 4,
    "eval.batch_size": 4,
    "mesh.data": 1,
}
DAMAGED = b"no image"


@pytest.fixture(scope="module")
def photographs(test_data, tmp_path_factory):
    """A folder of 21 and 11 small photographs of three classes."""
    root, data = tmp_path_factory.mktemp("photographs"), open_images("imagenet2012", str(test_data / "tfds"))
    for split, source, count in (("train", data.train, 21), ("val", data.validation, 11)):
        for i in range(count):
            folder = root / split / f"class{i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(source[i].data)) as opened:
                small = opened.convert("RGB").resize((41 + i, 40))
            small.save(folder / f"{i:02}.{('png', 'jpg')[i % 2]}")
    return root


def config_of(photographs, fields=None):
    """12 iterations of the folder config with a network of 8 layers, on one device."""
    config = folder_config.get_config()
    config.update_from_flattened_dict(FIELDS | {"dataset.data_dir": str(photographs)} | (fields or {}))
    return config


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    """The folder of a complete run, which tests must not change, and its result."""
    directory = tmp_path_factory.mktemp("streamed_runs") / "run"
    return directory, loop.train(config_of(photographs), directory).result


pytestmark = pytest.mark.test_data


def test_a_run_leaves_its_files(finished):
    directory, result = finished
    lines = lines_of(directory)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "validation_error" in line] == [6, 12]
    # A ramp of three updates to 0.05, boundaries at 6 and 9.
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.1 / 3, 0.05, 0.05, 0.005, 0.0005, 0.0005])
    assert saved_steps(directory) == [4, 8, 12]
    assert result["split"] == "validation"
    assert result["validation_images"] == 11
    assert {name: lines[-1][name] for name in ("train_loss", "validation_loss", "validation_error")}.items() <= (
        result.items()
    )
    assert len({line["train_loss"] for line in lines}) == 6


def test_the_validation_error_is_what_pillow_and_numpy_find(finished, photographs):
    directory, result = finished
    images, labels = [], []
    for path in sorted((photographs / "val").glob("*/*")):
        with Image.open(path) as image:
            width, height = image.size
            resized = np.asarray(image.resize((28 * width // height, 28), Image.Resampling.BILINEAR), np.float64)
        left = round((resized.shape[1] - 24) / 2)
        images.append(resized[2:26, left : left + 24])
        labels.append(int(path.parent.name[-1]))
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    ready = (np.stack(images) / 255 - mean) / std
    trained = load(directory)
    forward = jax.jit(lambda variables, images: trained.model.apply(variables, images, train=False))
    logits = np.asarray(forward(trained.variables, jnp.asarray(ready, jnp.float32)), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(11), labels]
    assert result["validation_error"] == pytest.approx((logits.argmax(1) != labels).mean())
    # Pixels may be rounded another way.
    assert result["validation_loss"] == pytest.approx(losses.mean(), abs=0.01)
    assert trained.class_names == ("class0", "class1", "class2")
    assert trained.preprocessing.resize_size == 28


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_exactly_with_other_workers(finished, photographs, tmp_path, capsys):
    """Killed after two epochs and a bit, two steps after it was saved."""
    directory = tmp_path / "run"
    train_until(6, config_of(photographs), directory)
    assert saved_steps(directory) == [4]
    assert [line["step"] for line in lines_of(directory)] == [2, 4, 6]
    capsys.readouterr()
    loop.train(config_of(photographs, {"stream.num_workers": 2}), directory)
    assert "going on from the checkpoint of iteration 4" in capsys.readouterr().out
    assert_same_run(directory, finished[0])


def losses_of(config, steps=6):
    images, task, program = parts(config)
    state = create_state(task.model, task.optimizer, 0, images.metadata.image_shape, build.mesh(config))
    _, metrics = program.run_steps(state, steps, lambda: False)
    images.close()
    return np.asarray(metrics["loss"].total / metrics["loss"].count)


def test_the_same_loss_curve_on_1_and_8_devices(finished, photographs):
    one, eight = (losses_of(config_of(photographs, {"mesh.data": devices})) for devices in (1, 8))
    assert len(np.unique(one)) == 6
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    # It is that of the whole run, which logs means over two steps.
    logged = [line["train_loss"] for line in lines_of(finished[0])[:3]]
    np.testing.assert_allclose(one.reshape(3, 2).mean(1), logged, rtol=1e-5)


@pytest.fixture
def spoiled(photographs, tmp_path):
    """The photographs, one in each split damaged."""
    root = shutil.copytree(photographs, tmp_path / "photographs")
    (root / "train" / "class1" / "04.png").write_bytes(DAMAGED)
    (root / "val" / "class2" / "05.jpg").write_bytes((root / "val" / "class2" / "05.jpg").read_bytes()[:300])
    return root


def test_damaged_photographs_are_named_and_left_out(spoiled, tmp_path, capsys):
    # Twelve batches of eight show each of the 21 four times, and both evaluations all of the eleven.
    result = loop.train(config_of(spoiled, {"stream.max_corrupt_fraction": 0.1}), tmp_path / "run").result
    said = [line for line in capsys.readouterr().out.splitlines() if " is damaged: " in line]
    assert sorted(said) == [
        "train/class1/04.png is damaged: the next image takes its place",
        "val/class2/05.jpg is damaged: it is left out",
    ]
    assert result["validation_images"] == 10
    assert np.isfinite(result["validation_loss"])


def test_too_many_damaged_photographs_end_the_run_with_one_line(spoiled, tmp_path):
    with pytest.raises(
        InputError, match=r"^1 of 21 images are damaged, train/class1/04.png.*max_corrupt_fraction=0 allows"
    ):
        loop.train(config_of(spoiled, {"stream.max_corrupt_fraction": 0.0}), tmp_path / "run")
    for path in (spoiled / "train").glob("*/*"):
        path.write_bytes(DAMAGED)
    with pytest.raises(InputError, match=r"20 images from train/.* on are damaged") as error:
        loop.train(config_of(spoiled), tmp_path / "run2")
    assert "\n" not in str(error.value)
    config = config_of(spoiled, {"stream.normalization": "mean_image", "stream.mean_images": 5})
    with pytest.raises(InputError, match="all of 5 images are damaged"):
        loop.train(config, tmp_path / "run3")
    assert not (tmp_path / "run3").exists()


def test_a_folder_with_other_files_is_refused(finished, photographs, tmp_path):
    run, root = shutil.copytree(finished[0], tmp_path / "run"), shutil.copytree(photographs, tmp_path / "photographs")
    (run / "result.json").unlink()
    shutil.copy(root / "train" / "class1" / "04.png", root / "train" / "class1" / "99.png")
    with pytest.raises(InputError, match="the data of 'folder' are not those that this run began with"):
        loop.train(config_of(root), run)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("normalization", ["mean_image", "channels"])
def test_preprocessing_of_a_run(photographs, order, normalization):
    fields = {"stream.channel_order": order, "stream.normalization": normalization, "stream.mean_images": 9}
    config, said = config_of(photographs, fields), []
    train = open_images("folder", str(photographs)).train
    ready = build.image_preprocessing(config, train, said.append)
    pixels = np.array((0, 100, 255.0))[None, None, None] * np.ones((1, 24, 24, 1))
    if normalization == "channels":
        expected = (pixels / 255 - np.array((0.485, 0.456, 0.406))) / np.array((0.229, 0.224, 0.225))
        assert said == []
        tolerance = 1e-4
    else:
        centres = []
        for i in np.linspace(0, 20, 9).astype(int):
            with Image.open(io.BytesIO(train[i].data)) as image:
                width = 28 * image.width // image.height
                resized = np.asarray(image.resize((width, 28), Image.Resampling.BILINEAR), np.float64)
            left = round((width - 24) / 2)
            centres.append(resized[2:26, left : left + 24])
        expected = pixels - np.mean(centres, 0)
        assert said == ["computing the mean image of 9 photographs"]
        tolerance = 20  # of training windows, which are not antialiased
    expected = expected[..., ::-1] if order == "bgr" else expected
    difference = np.asarray(ready(jnp.asarray(pixels, jnp.uint8))) - expected
    assert np.abs(difference).max() < tolerance
    assert np.abs(difference.mean((0, 1, 2))).max() < tolerance / 20
    assert (ready.channel_order, ready.resize_size, ready.interpolation) == (order, 28, "bilinear")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stream.scales=(256,)", r"config.stream.scales is \(256,\), but it must be two shorter sides"),
        ("stream.scales=(480, 256)", r"config.stream.scales is \(480, 256\).*the lesser first"),
        (
            "stream.scales=(200, 256)",
            r"config.stream.scales is \(200, 256\).*neither below config.stream.image_size=224",
        ),
        ("stream.scales=(256.0, 480.0)", r"config.stream.scales"),
        ("stream.image_size=257", r"config.stream.scales"),
        ("stream.resize_size=223", r"config.stream.resize_size is 223, but no window of config.stream.image_size=224"),
        ("stream.image_size=0", r"config.stream.image_size is 0"),
        ("stream.crop=center", r"'center', but it must be one of random_scale, random_resized_crop"),
        ("stream.interpolation=nearest", r"config.stream.interpolation is 'nearest'.*one of bilinear, bicubic"),
        ("stream.normalization=zero", r"config.stream.normalization is 'zero'.*one of mean_image, channels"),
        ("stream.channel_order=grb", r"config.stream.channel_order is 'grb'.*one of rgb, bgr"),
        ("stream.pca_lighting_std=-0.1", r"config.stream.pca_lighting_std is -0.1, but it must be at least 0"),
        ("stream.max_corrupt_fraction=1.5", r"config.stream.max_corrupt_fraction is 1.5, but it must be from 0 to 1"),
        ("stream.num_workers=-1", r"config.stream.num_workers is -1"),
        ("dataset.validation_images=5", r"config.dataset.validation_images.*'folder' has some"),
        ("optimizer.boundaries=(1.5, 0.75)", r"config.optimizer.boundaries is \(1.5, 0.75\)"),
        ("optimizer.boundaries=(0, 100)", r"config.optimizer.boundaries is \(0, 100\)"),
        ("optimizer.warmup_steps=-1", r"config.optimizer.warmup_steps is -1"),
        ("train.batch_size=12", r"config.train.batch_size=12 cannot be divided by 8 devices: use a size such as 8"),
        ("dataset.data_dir=absent", r"data_dir=absent does not exist"),
        ("seed=0", r"data_dir is missing"),
    ],
)
def test_configs_that_no_run_can_have(override, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        loop.train(parsing.load("folder", ["stream.crop=random_scale", override]), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [None, 128, 1024, 8192])
@pytest.mark.parametrize("variant", ["", ":large_batch"])
def test_the_90_epochs_follow_the_batch_size(batch_size, variant):
    overrides = [f"train.batch_size={batch_size}"] if batch_size else []
    config = parsing.load(f"imagenet_90ep{variant}", overrides)
    size = batch_size or (8192 if variant else 256)
    assert config.train.batch_size == size
    assert config.train.iterations == 90 * 1_281_167 // size
    assert config.optimizer.learning_rate == pytest.approx(0.1 * size / 256)
    assert length.length(config).warmup == (5 * 1_281_167 // size if variant else 0)
    checks.check(config)
    fields = json.loads(config.to_json_best_effort())
    assert fields["train"]["iterations"] == 90 * 1_281_167 // size
    # A tenth after 30 and 60 epochs, and after 80 of large batches.
    epoch, rate = 1_281_167 / size, 0.1 * size / 256
    rates = jax.device_get(build.schedule(config)(jnp.array([int(each * epoch) for each in (29, 31, 59, 61, 79, 81)])))
    np.testing.assert_allclose(rates, rate * np.array([1, 0.1, 0.1, 0.01, 0.01, 0.001 if variant else 0.01]), rtol=1e-5)
    if variant:
        first, half = jax.device_get(build.schedule(config)(jnp.array([0, round(2.5 * epoch) - 1])))
        # Linearly from 0.1.
        assert first == pytest.approx(0.1)
        assert half == pytest.approx((0.1 + rate) / 2, rel=0.01)


def test_what_is_given_outright_does_not_follow():
    overrides = ["train.iterations=10", "train.batch_size=512", "optimizer.learning_rate=0.7"]
    for each in (overrides, overrides[::-1]):
        config = parsing.load("imagenet_90ep:large_batch", each)
        assert (config.train.iterations, config.optimizer.learning_rate) == (10, 0.7)
        # Shares follow.
        assert length.length(config).warmup == 0
