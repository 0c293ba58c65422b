"""What a workdir survives: readers beside a live run, a second writer, other data, fields that are younger than it."""

import json
import shutil

import numpy as np
import pytest

from resnet_jax.data import small
from resnet_jax.errors import DivergedError, InputError
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loop import train
from small_run import OF_20, small_config


@pytest.fixture
def run(run_of_20, tmp_path):
    """A run of 20 iterations that lacks its result and its last checkpoint."""
    directory = shutil.copytree(run_of_20, tmp_path / "run")
    (directory / "result.json").unlink()
    shutil.rmtree(directory / "checkpoints" / "20")
    return directory


def test_a_reader_leaves_alone_what_a_live_run_is_writing(run):
    live = run / "checkpoints" / "20.orbax-checkpoint-tmp"
    live.mkdir()
    (live / "part").write_text("of a save")
    assert evaluate_runs([run])["steps"] == [10]
    assert (live / "part").read_text() == "of a save"
    # The next writer clears what a killed one has left.
    train(small_config(OF_20), run)
    assert not live.exists()


def test_two_processes_do_not_write_in_one_workdir(run):
    with (
        Checkpoints(run, write=True),
        pytest.raises(InputError, match=f"another process is training in {run}"),
    ):
        Checkpoints(run, write=True)
    Checkpoints(run, write=True).__exit__()


def test_other_images_are_not_the_same_run(run, monkeypatch):
    dataset = small.load("digits")
    images = dataset.train.images.copy()
    images[7, 3, 3, 0] ^= 1
    changed = small.Dataset(
        small.Split(images, dataset.train.labels), dataset.validation, dataset.test, dataset.class_names
    )
    monkeypatch.setattr(small, "load", lambda *_: changed)
    with pytest.raises(InputError, match="the data of 'digits' are not those that this run began with"):
        train(small_config(OF_20), run)


def test_a_field_that_is_younger_than_the_run_has_its_default(run):
    path = run / "config.json"
    fields = json.loads(path.read_text())
    # Files of the version before had neither of these.
    del fields["version"], fields["checksum"]
    del fields["model"]["stem_pool_padding"], fields["optimizer"]["patience"]
    path.write_text(json.dumps(fields))
    assert evaluate_runs([run])["steps"] == [10]
    assert train(small_config(OF_20), run).result["step"] == 20


@pytest.mark.slow
def test_what_does_not_change_a_run_may_change_between_its_starts(run):
    fields = {"mesh.data": 2, "eval.batch_size": 7, "model.unroll": True, "train.checkpoint_every": 7}
    assert train(small_config(OF_20 | dict(fields)), run).result["step"] == 20


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    # The last update is the first that has the rate 1e37: no later training loss could tell.
    fields = {"optimizer.boundaries": (19,), "optimizer.factor": 1e38}
    with pytest.raises(DivergedError, match="the checkpoint of iteration 10 is whole"):
        train(small_config(OF_20 | dict(fields)), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["10"]


@pytest.mark.parametrize("content", ["", "{", "[1, "])
def test_files_that_were_cut_short(run, content):
    (run / "result.json").write_text(content)
    with pytest.raises(InputError, match=r"result\.json is damaged: remove it"):
        train(small_config(OF_20), run)
    (run / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"no readable config\.json"):
        evaluate_runs([run])


def test_evaluating_needs_nothing_of_the_optimiser(run):
    """A network stays readable when its optimiser's state is not."""
    for path in (run / "checkpoints" / "10" / "training").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(b"")
    assert evaluate_runs([run])["images"] == 360
    assert np.isfinite(evaluate_runs([run])["loss"])
