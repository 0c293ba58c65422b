import ast
import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import configs
from resnet_jax.configs import base, parsing
from resnet_jax.configs.fields import flat
from resnet_jax.data import small
from resnet_jax.errors import InputError
from resnet_jax.runs import build, checks, loop
from small_run import parts

PACKAGED = parsing.PACKAGED
# Those whose data set lies on the devices, and those of photographs.
RESIDENT = [name + variant for name in ("cifar10", "cifar100", "digits") for variant in ("", ":plain")]
STREAMED = ["imagenet", "imagenet:plain", "imagenet_90ep", "imagenet_90ep:large_batch", "folder"]
SHRUNK = "model.depth=8 train.iterations=1 train.batch_size=8 eval.batch_size=16 model.bn_group_size=none"


def fake_split(count, classes, seed):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return small.Split(images, random.integers(0, classes, count, dtype=np.int32))


@pytest.fixture
def fake_cifar(monkeypatch):
    """CIFAR of a few random images; the digits stay themselves."""
    load = small.load

    def fake(name, data_dir=None, validation_images=0):
        if name == "digits":
            return load(name, data_dir, validation_images)
        classes = {"cifar10": 10, "cifar100": 100}[name]
        names = tuple(f"class {i}" for i in range(classes))
        return small.Dataset(fake_split(24, classes, 0), None, fake_split(20, classes, 1), names)

    monkeypatch.setattr(small, "load", fake)


def test_there_are_configs():
    # `finetune` wants weights: tests/runs/test_starting.py runs it.
    assert set(PACKAGED) == {"finetune", *(name.partition(":")[0] for name in RESIDENT + STREAMED)}


def test_every_field_has_its_comment_above_it():
    """The comments of the source are the documentation of the fields: `train --help` and the docs show them."""
    described = configs.described()
    assert sorted(each.name for each in described) == sorted(flat(base.get_config()))
    assert not [each.name for each in described if not each.comment]
    depth = next(each for each in described if each.name == "model.depth")
    assert depth == ("model.depth", 20, "Layers with weights: those of the shortcuts are not counted.")
    # Comments of two lines, and of a section of one line.
    comments = {each.name: each.comment for each in described}
    assert comments["stream.num_workers"] == (
        "Processes that decode. None: all cores but one, or none on fewer than four cores."
    )
    assert comments["mesh.fsdp"].startswith("The devices, data x fsdp, share a batch. Those along fsdp also")
    shown = {each.name: each.default for each in configs.described(configs.load("digits"))}
    assert (shown["train.iterations"], shown["dataset.name"]) == (1_200, "digits")


def lowered(config, monkeypatch):
    """The text of a step's program, which is not compiled, and the task that has it."""
    images, task, program = parts(config)
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: self)
    return program.steps(1).as_text(), task, images.metadata.image_shape


def count(task, image_shape):
    shape = (1, *image_shape)
    variables = jax.eval_shape(partial(task.model.init, train=False), jax.random.key(0), jnp.zeros(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", RESIDENT)
def test_the_shrunk_step_of_each(name, fake_cifar, monkeypatch):
    program, *made = lowered(parsing.load(name, SHRUNK.split()), monkeypatch)
    classes, (side, channels) = 100 if name.startswith("cifar100") else 10, (8, 1) if "digits" in name else (32, 3)
    # Depth 8 (n = 1): 97,216 - 21,926 with option A on colour images and ten classes (section 2.4 of the notes).
    assert count(*made) == 75_290 + 65 * (classes - 10) - (3 - channels) * 9 * 16
    assert f"tensor<8x{side}x{side}x{channels}xf32>" in program
    assert f"tensor<64x{classes}xf32>" in program


def test_one_shrunk_step_is_trained(fake_cifar, tmp_path):
    config = parsing.load("cifar100", SHRUNK.split())
    result = loop.train(config, tmp_path / "run").result
    assert result["step"] == 1
    assert np.isfinite(result["train_loss"])
    assert 0 <= result["test_error"] <= 1
    assert result["parameters"] == 75_290 + 65 * 90
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["step"] == 1


def shrunk_photographs(name, test_data):
    shrunk = "model.depth=18 train.iterations=1 train.batch_size=32 eval.batch_size=56 dataset.name=imagenet2012"
    shrunk += " stream.image_size=32 stream.resize_size=37 stream.mean_images=8 mesh.data=1"
    overrides = [*shrunk.split(), "stream.scales=(37, 69)", f"dataset.data_dir={test_data / 'tfds'}"]
    return parsing.load(name, overrides)


# training/test_resnet50.py trains the first of them.
@pytest.mark.test_data
@pytest.mark.parametrize("name", STREAMED)
def test_the_shrunk_step_of_each_on_photographs(name, test_data, monkeypatch):
    program, *made = lowered(shrunk_photographs(name, test_data), monkeypatch)
    # Section 2.3 of the notes: 11,689,512 with option B, and the plain twin without its projections.
    projections = sum(small * 2 * small + 2 * 2 * small for small in (64, 128, 256))
    assert count(*made) == 11_689_512 - (projections if name.endswith("plain") else 0)
    assert "tensor<32x32x32x3xui8>" in program
    assert "tensor<512x1000xf32>" in program


@pytest.mark.parametrize(("batch", "iterations", "rate"), [(256, 450_410, 0.1), (1_024, 112_602, 0.4)])
def test_ninety_epochs_at_any_batch_size(batch, iterations, rate):
    config = parsing.load("imagenet_90ep", [f"train.batch_size={batch}"])
    assert config.train.iterations == iterations
    assert config.optimizer.learning_rate == pytest.approx(rate)
    thirty_epochs = iterations // 3
    rates = build.schedule(config)(jnp.array([0, thirty_epochs - 1, thirty_epochs, iterations - 1]))
    np.testing.assert_allclose(rates, [rate, rate, rate / 10, rate / 100], rtol=1e-5)


def test_the_papers_cifar_schedule():
    schedule = build.schedule(parsing.load("cifar10"))
    # 0.1 until update 32,000, a tenth of it until 48,000, a hundredth until 64,000.
    rates = schedule(jnp.array([0, 31_999, 32_000, 47_999, 48_000, 63_999]))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


@pytest.mark.parametrize(("depth", "rate"), [(20, 0.1), (56, 0.1), (110, 0.01), (1202, 0.01)])
def test_warm_up_from_110_layers_on(depth, rate):
    optimizer = build.optimizer(parsing.load("cifar10", [f"model.depth={depth}"]), 50_000)
    params = {"kernel": jnp.ones(())}
    updates, _ = optimizer.update(
        {"kernel": jnp.ones(())}, optimizer.init(params), params, value=jnp.asarray(0.9, jnp.float32)
    )
    np.testing.assert_allclose(updates["kernel"], -rate * (1 + 1e-4), rtol=1e-5)


@pytest.mark.parametrize("name", PACKAGED)
def test_usual_batches_suit_usual_numbers_of_devices(name):
    config = parsing.load(name)
    for devices in (1, 2, 4, 8):
        assert config.train.batch_size % devices == 0
        assert config.eval.batch_size % devices == 0


IMPOSSIBLE = [
    ("train.iterations=0", "train.iterations is 0"),
    ("train.log_every=-1", "train.log_every is -1"),
    ("eval.batch_size=0", "eval.batch_size is 0"),
    ("dataset.pad=-1", "dataset.pad is -1"),
    ("mesh.data=0", "mesh.data is 0"),
    ("seed=-1", "seed is -1"),
    ("seed=4294967296", "seed is 4294967296, but it must be from 0 to 4294967295"),
    ("optimizer.boundaries=('a',)", "optimizer.boundaries"),
    ("optimizer.boundaries=(1.5, 0.75)", "optimizer.boundaries"),
    ("optimizer.schedule=cosine", "optimizer.schedule is 'cosine', but it must be one of piecewise, plateau"),
    ("optimizer.decay=none", "optimizer.decay"),
    ("model.dtype=float16", "model.dtype"),
    ("model.family=vit", "model.family"),
    ("model.depth=21", "the nearest depth is 20"),
    ("model.shortcut=D", "model.shortcut is 'D'"),
    ("model.bn_group_size=5", "config.model.bn_group_size=5 does not fit"),
    ("mesh.data=99", "99 devices, but 8 are available"),
]


def test_values_that_no_run_can_have_are_refused_before_anything_is_written(tmp_path):
    for override, message in IMPOSSIBLE:
        with pytest.raises(InputError, match=message):
            loop.train(parsing.load("digits", [override]), tmp_path / "run")
        assert not list(tmp_path.iterdir()), override


def test_the_largest_seed_is_a_seed_of_its_own():
    config = parsing.load("digits", ["seed=4294967295"])
    checks.check(config)
    keys = [jax.random.key(seed) for seed in (0, 2**31, config.seed)]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 3


@pytest.mark.parametrize("name", PACKAGED)
def test_the_commands_of_the_docstring_parse(name):
    docstring = ast.get_docstring(ast.parse((Path(configs.__file__).parent / f"{name}.py").read_text()))
    commands = re.findall(r"^ *resnet-jax train (.*)$", docstring, re.MULTILINE)
    assert commands
    for command in commands:
        source, *rest = re.findall(r"--config=(\S+)|--config\.(\S+)", command)
        assert source[0].split(":")[0] == name
        checks.check(parsing.load(source[0], [override for _, override in rest]))
        assert "--workdir=runs/" in command


@pytest.mark.parametrize("name", PACKAGED)
def test_unknown_variants(name):
    variants = {"imagenet_90ep": "it has ':large_batch'", "folder": "has no variants", "finetune": "has no variants"}
    with pytest.raises(InputError, match=variants.get(name, "no variant 'wide' of this config: it has ':plain'")):
        parsing.load(f"{name}:wide")
