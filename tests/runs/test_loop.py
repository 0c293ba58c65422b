"""Whole runs in a folder: what they leave, and what stops them."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from resnet_jax.data import small
from resnet_jax.errors import DivergedError, InputError
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loading import load, load_run, load_state
from resnet_jax.runs.loop import train
from resnet_jax.runs.tasks import classification
from resnet_jax.runs.workdir import read_config, read_result
from resnet_jax.training.step import train_step
from small_run import assert_same_run, lines_of, saved_steps, small_config


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the complete run that may be changed."""
    return shutil.copytree(finished[0], tmp_path / "run")


def test_a_run_leaves_its_files(finished):
    directory, result = finished
    config = json.loads((directory / "config.json").read_text())
    assert {"version", "checksum"} == config.keys() - small_config().keys()
    assert small_config().to_dict() == read_config(directory).to_dict()
    lines = lines_of(directory)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert [line["step"] for line in lines if "test_error" in line] == [20, 40, 60]
    rates = [0.1, 0.1, 0.1, 0.01, 0.001, 0.001]  # the update that a line ends with, boundaries at 30 and 45
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates)
    assert saved_steps(directory) == [20, 40, 60]
    assert sum(path.stat().st_size for path in (directory / "events").iterdir()) > 500
    with Image.open(directory / "curves.png") as image:
        assert image.format == "PNG"
        assert np.ptp(np.asarray(image)) > 100
    saved = json.loads((directory / "result.json").read_text())
    assert isinstance(saved.pop("checksum"), int)
    assert saved == result == read_result(directory)
    assert result["step"] == 60
    assert {name: lines[-1][name] for name in ("train_loss", "train_error", "test_loss", "test_error")}.items() <= (
        result.items()
    )
    assert not list(directory.rglob("*.partial"))


def test_the_result_is_what_the_checkpoint_scores(finished):
    directory, result = finished
    run = load_run(directory)
    trained = run.classifier
    digits = small.load("digits")
    images = digits.test.images - digits.train.images.mean(0, dtype=np.float64).astype(np.float32)
    logits = np.asarray(jax.jit(partial(trained.model.apply, train=False))(trained.variables, images))
    assert result["test_error"] == pytest.approx((logits.argmax(1) != digits.test.labels).mean(), rel=1e-6)
    assert result["test_images"] == 360
    convolutions = 9 * (1 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert result["parameters"] == convolutions + 2 * (3 * 16 + 2 * 32 + 2 * 64) + 650
    assert run.step == 60


def test_a_complete_run_is_not_trained_again(finished, capsys):
    directory, result = finished
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")}
    assert train(small_config(), directory).result == result
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")} == before
    assert "is complete after 60 iterations" in capsys.readouterr().out


@pytest.mark.parametrize("last", [20, *(pytest.param(last, marks=pytest.mark.slow) for last in (40, 60))])
def test_going_on_from_any_checkpoint_gives_the_same_run(finished, copy, capsys, last):
    """60: killed after the last checkpoint, before the result was written."""
    (copy / "result.json").unlink()
    (copy / "curves.png").unlink()
    for step in saved_steps(copy):
        if step > last:
            shutil.rmtree(copy / "checkpoints" / str(step))
    train(small_config(), copy)
    assert f"going on from the checkpoint of iteration {last}" in capsys.readouterr().out
    assert (copy / "curves.png").exists()
    assert_same_run(copy, finished[0])


def test_another_config_is_refused_and_the_fields_are_named(finished, copy):
    with pytest.raises(InputError, match=r"optimizer\.weight_decay \(0\.0001 there, 0\.001 asked for\), seed") as error:
        train(small_config({"seed": 1, "optimizer.weight_decay": 0.001}), copy)
    assert "train.iterations" not in str(error.value)
    assert lines_of(copy) == lines_of(finished[0])


def test_another_place_of_the_data_is_the_same_run(finished, copy):
    assert train(small_config({"dataset.data_dir": "/elsewhere"}), copy).result == finished[1]


def test_a_loss_that_is_no_number_before_anything_is_saved_leaves_no_checkpoint(tmp_path):
    # Update 6 is the first with a rate of 1e29.
    with pytest.raises(
        DivergedError, match=r"at iteration [78], on .*; there is no checkpoint yet.*learning_rate"
    ) as error:
        train(small_config({"optimizer.boundaries": (5,), "optimizer.factor": 1e30}), tmp_path)
    assert re.search(r"the loss is (nan|inf)", str(error.value))
    assert saved_steps(tmp_path) == []


def test_validation_images_are_scored_instead_of_the_test_set_until_the_end(tmp_path):
    config = small_config({"dataset.validation_images": 100, "train.iterations": 20})
    result = train(config, tmp_path).result
    line = lines_of(tmp_path)[-1]
    assert "test_error" not in line
    assert line["validation_error"] * 100 == pytest.approx(round(line["validation_error"] * 100), abs=1e-4)
    assert result["test_images"] == 360
    assert result["test_error"] * 360 == pytest.approx(round(result["test_error"] * 360), abs=1e-3)


def test_the_log_of_a_command_imports_no_pytorch(tmp_path):
    """Two seconds of every start, where it is installed; and it can be imported afterwards."""
    program = "import sys; from resnet_jax.runs import metrics_log; from pathlib import Path\n"
    program += "metrics_log.import_without_torch()\n"
    program += f"with metrics_log.MetricsLog(Path({str(tmp_path)!r}), 0) as log: log.write(1, dict(loss=0.5))\n"
    program += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.slow
def test_the_state_of_a_task_of_ones_own(tmp_path):
    optimizer = optax.adamw(1e-3)

    def make_task(config, metadata, train_images, mesh):
        task = classification(config, metadata, train_images, mesh)
        step = partial(train_step, model=task.model, optimizer=optimizer, mesh=mesh)
        return dataclasses.replace(task, optimizer=optimizer, train_step=step)

    run = train(small_config({"train.iterations": 10}), tmp_path, make_task=make_task)
    assert int(run.state.step) == 10
    assert jax.tree.structure(run.state.opt_state) == jax.tree.structure(optimizer.init(run.state.params))
    jax.tree.map(np.testing.assert_array_equal, run.state.variables, run.classifier.variables)
    assert [line["step"] for line in run.metrics] == [10]


def test_averaged_variables_are_scored_saved_and_restored(tmp_path):
    fields = {"train.ema_decay": 0.9, "train.iterations": 20, "train.checkpoint_every": 10}
    config, whole, resumed = small_config(fields), tmp_path / "whole", tmp_path / "resumed"
    result = train(config, whole).result
    shutil.copytree(whole, resumed)
    (resumed / "result.json").unlink()
    shutil.rmtree(resumed / "checkpoints" / "20")
    train(config, resumed)
    assert_same_run(resumed, whole)
    state, variables = load_state(whole), load(whole).variables
    jax.tree.map(np.testing.assert_array_equal, state.ema, variables)
    assert not np.allclose(state.params["fc"]["kernel"], variables["params"]["fc"]["kernel"])
    assert evaluate_runs([whole])["loss"] == pytest.approx(result["test_loss"], rel=1e-5)
