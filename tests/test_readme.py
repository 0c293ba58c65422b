"""The Python of README and docs/, word for word, on small data; what documents name; and the package's own door."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rj
from resnet_jax.cli.commands import COMMANDS
from resnet_jax.cli.main import main
from resnet_jax.runs import tasks

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(*path):
    """The blocks of Python in a document."""
    return re.findall(r"```python\n(.*?)```", ROOT.joinpath(*path).read_text(), re.DOTALL)


TEN_LINES, OWN_LOOP, RUN = python_blocks("docs", "python.md")


def execute(code, **smaller):
    """Runs a block of README, with some of its numbers replaced; returns its names."""
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    names = {}
    exec(code, names)
    return names


def save(path, light, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(light, light + 56, (40, 48, 3), np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with bright and dark photographs, new ones, and weights of a network of three classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, light in (("bright", 200), ("dark", 0)):
            for i in range(count):
                save(tmp_path / "photos" / split / name / f"{i}.jpg", light, rng)
    save(tmp_path / "new_photos" / "1.png", 190, rng)
    model = rj.create("cifar_resnet8", num_classes=3)
    gray = rj.data.Preprocessing(np.full((1, 1, 3), 128.0, np.float32), np.full((1, 1, 3), 64.0, np.float32))
    variables = rj.models.init(model, (32, 32, 3), jax.random.key(1))
    classifier = rj.Classifier(model, variables, gray, ("a", "b", "c"), (32, 32, 3))
    rj.save_torch(classifier, tmp_path / "resnet50.safetensors")
    monkeypatch.chdir(tmp_path)


def test_readme_has_the_ten_lines_of_the_guide():
    assert python_blocks("README.md") == [TEN_LINES]
    tested = {"inside.md", "looking.md", "paper.md", "photographs.md", "python.md", "watching.md", "weights.md"}
    assert {path.name for path in DOCUMENTS[1:] if python_blocks(path)} == tested


def test_weights_are_trained_on_for_other_classes(folder, capsys):
    small = {"image_size=224": "image_size=32", "batch_size=64, steps=100": "batch_size=8, steps=12"}
    names = execute(TEN_LINES, **small)
    assert names["classifier"].class_names == ("bright", "dark")
    assert int(names["state"].step) == 12
    assert float(names["metrics"]["loss"]) < 0.3
    found = rj.evaluate(names["classifier"], names["photos"].validation)
    assert str(found) in capsys.readouterr().out
    assert found.summary()["images"] == 8
    (prediction,) = rj.predict(names["classifier"], Path("new_photos"))
    assert prediction.file == "new_photos/1.png"
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_network_learns_by_a_loss_and_an_optimizer_of_ones_own():
    names = execute(OWN_LOOP, **{"cifar_resnet20": "cifar_resnet8", "steps=100": "steps=40"})
    whole = names["model"].apply(names["variables"], names["images"], train=False)
    np.testing.assert_allclose(names["logits"], whole, rtol=1e-5, atol=1e-6)
    assert {name: features.shape[1:] for name, features in names["features"].items()} == {
        "stem": (8, 8, 16),
        "stage1": (8, 8, 16),
        "stage2": (4, 4, 32),
        "stage3": (2, 2, 64),
    }
    assert 0.1 < float(names["metrics"]["confidence"]) < 1
    assert rj.evaluate(names["classifier"], names["digits"].test).error < 0.3


@pytest.mark.slow
def test_a_run_of_a_task_and_of_data_of_ones_own(tmp_path):
    """The examples in `runs.tasks`, on digits that are even or odd."""
    names, digits = dict(vars(tasks)), rj.data.load("digits")
    train, test = (rj.data.Split(split.images, split.labels % 2) for split in (digits.train, digits.test))
    for example in doctest.DocTestParser().get_examples(tasks.__doc__):
        if doctest.SKIP not in example.options:
            exec(example.source, names)
    config = rj.configs.load("digits", {"model.depth": 8, "train.iterations": 2, "train.log_every": 2})
    names.update(train=train, test=test)
    run = rj.train(config, tmp_path, make_task=names["with_top5"], open_input=names["mine"])
    assert run.classifier.class_names == ("cat", "dog")
    assert run.metrics[-1]["train_top5_error"] == 0
    assert run.result["test_images"] == 360
    rj.predict(run.classifier, test.images[:2])


@pytest.mark.slow
def test_train_returns_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = execute(RUN, **{'"train.iterations": 400': '"train.iterations": 4, "model.depth": 8'})["run"]
    assert run.workdir == Path("runs/digits-400")
    assert int(run.state.step) == run.result["step"] == run.metrics[-1]["step"] == 4
    assert rj.evaluate(run.classifier, rj.data.load("digits").test).error == pytest.approx(run.result["test_error"])


def test_an_exported_program_is_read_as_the_guide_says(folder):
    classifier = rj.load_torch("resnet50.safetensors")
    rj.interop.export(classifier, "resnet50.stablehlo")
    (block,) = python_blocks("docs", "weights.md")
    names = {"images": np.zeros((3, 32, 32, 3), np.uint8)}
    exec(block, names)
    assert names["logits"].shape == (3, 3)


def test_a_head_is_fitted_as_the_guide_says(folder, capsys):
    shutil.copy("resnet50.safetensors", "resnet18.safetensors")
    (block,) = python_blocks("docs", "photographs.md")
    names = execute(block, **{"image_size=224": "image_size=32"})
    assert names["classifier"].class_names == ("bright", "dark")
    assert "8 images" in capsys.readouterr().out


def test_a_run_is_watched_as_the_guide_says(run_of_20, monkeypatch, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cifar10-56").symlink_to(run_of_20)
    monkeypatch.chdir(tmp_path)
    first, *others = python_blocks("docs", "watching.md")
    execute(first)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["10", "20"]
    # Stand-ins for libraries that are not installed: the calls are those of the page, and not those of the libraries.
    for block, library, logged in zip(others, ("wandb", "mlflow"), ("log", "log_metrics"), strict=True):
        stand_in = mock.MagicMock()
        monkeypatch.setitem(sys.modules, library, stand_in)
        execute(block)
        log = getattr(stand_in.init.return_value.__enter__.return_value if library == "wandb" else stand_in, logged)
        assert [call.kwargs["step"] for call in log.call_args_list] == [10, 20]


def test_names_are_found_when_they_are_asked_for():
    for name in rj.__all__:
        assert hasattr(rj, name), name
    assert rj.__version__
    assert set(rj.__all__) <= set(dir(rj))
    with pytest.raises(AttributeError, match="No resnet_jax attribute resnet"):
        _ = rj.resnet


def test_a_checkout_on_the_path_needs_no_installation(tmp_path):
    (tmp_path / "resnet_jax").symlink_to(Path(rj.__file__).parent)
    code = """import importlib.metadata as metadata
found = metadata.distribution
def distribution(name):
    if name == "deep-residual-jax":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.distribution = distribution
import resnet_jax
print(resnet_jax.__version__)"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout == "not installed\n"


@pytest.mark.slow
def test_help_names_what_there_is():
    program = "import resnet_jax; help(resnet_jax); help(resnet_jax.training)"
    text = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for name in ("load_torch", "evaluate", "predict", "transfer", "train", "make_train_step", "create_state"):
        assert f" {name}(" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_documents_name_is_there(path, capsys):
    """Files, fields of configs, and flags of commands, which each command's --help names."""
    text = path.read_text()
    for file in re.findall(r"`((?:src|tests|experiments|docs)/[\w/]+\.\w+)", text):
        assert (ROOT / file).exists(), file
    config = rj.configs.load("digits").to_dict()
    sections = "|".join(name for name, fields in config.items() if isinstance(fields, dict))
    fields = set(re.findall(rf"(?:--config\.|--axis |`)({sections})\.(\w+)(?![\w.(/])", text))
    for section, field in fields:
        assert field in config[section], f"{section}.{field}"
    longest_first = "|".join(sorted(COMMANDS, key=len, reverse=True))
    used = re.findall(rf"resnet-jax ({longest_first})\b((?:[^\n`|]|\\\n)*)", text)
    for command, rest in used:
        assert main([*command.split(), "--help"]) == 0
        known = capsys.readouterr().out
        for flag in re.findall(r"--(\w+)", rest):
            assert f"--{flag}" in known or flag in ("config", "help"), f"{command} --{flag}"


@pytest.mark.slow
def test_a_network_is_looked_at_as_the_guide_says(folder, capsys):
    (block,) = python_blocks("docs", "looking.md")
    digits = rj.data.load("digits")
    model, shape = rj.create("cifar_resnet8"), (8, 8, 1)
    preprocessing = rj.data.Preprocessing(np.full((1, 1, 1), 128.0, np.float32))
    variables = rj.models.init(model, shape, jax.random.key(0))
    classifier = rj.Classifier(model, variables, preprocessing, digits.class_names, shape)
    with mock.patch.object(rj, "load", return_value=classifier):
        names = execute(block, **{'load("digits").test': 'load("digits").test.take(range(24))'})
    assert names["found"].maps.shape == (12, 2, 2)
    assert Path("maps.png").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "stage3 25 4"


@pytest.mark.slow
def test_what_happens_inside_is_measured_as_the_guide_says(folder, capsys):
    (block,) = python_blocks("docs", "inside.md")
    digits = rj.data.load("digits")
    model = rj.models.ResNet((1, 1, 3), (4, 4, 4), False, "cifar", 10, "A")
    preprocessing = rj.data.Preprocessing(np.full((1, 1, 1), 128.0, np.float32))
    variables = rj.models.init(model, (8, 8, 1), jax.random.key(0))
    classifier = rj.Classifier(model, variables, preprocessing, digits.class_names, (8, 8, 1))
    small = {'load("digits").test': 'load("digits").test.take(range(24))', "(9, 9, 9)": "(1, 2, 3)", ":64]": ":8]"}
    with mock.patch.object(rj, "load", return_value=classifier):
        names = execute(block, **small)
    assert names["deeper"].model.stage_sizes == (1, 2, 3)
    assert float(capsys.readouterr().out.splitlines()[-1]) < 1e-5
