"""Runs that begin with weights: what the weights settle, what is new, and how they go on."""

import json
import shutil

import jax
import numpy as np
import pytest
from finetuning import COLOURS, finetune

from resnet_jax.cli.main import main
from resnet_jax.distributed import agreement
from resnet_jax.errors import InputError
from resnet_jax.runs import doctor, starting
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.extraction import extract_features
from resnet_jax.runs.loading import load, load_run, load_state
from resnet_jax.runs.loop import train
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.runs.recalibrate import recalibrate_run
from resnet_jax.runs.workdir import claim, read_config
from resnet_jax.training.optimizers import sgd
from resnet_jax.training.state import create_state
from small_run import OF_20, assert_same_run, everything_saved, saved_steps, small_config, train_until


def begun(config, classes, shape=(8, 8, 1)):
    """What a run of a config begins with, for data of such classes and images; and what it said."""
    said = []
    weights = starting.read(config.init.weights, said.append)
    config = starting.resolved(config, weights)
    model = starting.build.model(config, len(classes))
    return starting.begin(config, weights, CheckpointMetadata(classes, shape, 0), model, said.append), said


def test_a_run_from_a_file_has_what_the_weights_settle(finetuned, torch_file):
    config, theirs = read_config(finetuned.workdir), starting.read(torch_file, lambda line: None)
    model, stream = config.model, config.stream
    assert (model.family, model.depth, model.shortcut, model.shortcut_padding) == ("cifar_resnet", 8, "A", "both")
    assert (stream.image_size, stream.resize_size, stream.normalization) == (32, 32, "channels")
    assert (stream.interpolation, stream.channel_order) == ("bicubic", "rgb")
    found = finetuned.classifier
    assert (found.class_names, found.image_shape) == (COLOURS, (32, 32, 3))
    jax.tree.map(np.testing.assert_array_equal, found.preprocessing.mean, theirs.preprocessing.mean)
    # Frozen with its statistics, all but the head is still that of the file.
    for collection in ("params", "batch_stats"):
        ours, others = ({**each.variables[collection], "fc": 0} for each in (found, theirs))
        jax.tree.map(np.testing.assert_array_equal, ours, others)
    assert found.variables["params"]["fc"]["kernel"].shape == (64, 2)
    assert np.ptp(found.variables["params"]["fc"]["kernel"]) > 0


def test_it_learns_and_is_evaluated_and_predicts(finetuned, coloured, capsys):
    assert finetuned.result["validation_error"] == 0
    assert evaluate_runs([finetuned.workdir])["error"] == 0
    assert main(["predict", f"--workdir={finetuned.workdir}", str(coloured / "val" / "red" / "0.png")]) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if "0.png" in line]
    assert len(named) == 1
    assert "red" in named[0]


def test_a_loaded_run_is_trained_as_a_whole(finetuned):
    loaded = load(finetuned.workdir)
    assert (loaded.model.frozen, loaded.model.frozen_statistics) == ((), ())
    state = create_state(loaded, sgd(0.01, momentum=0.9))
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.opt_state)]
    assert all(leaf.shape in shapes for leaf in jax.tree.leaves(loaded.variables["params"]))


def test_statistics_that_a_run_froze_are_not_recalibrated(finetuned):
    run = load_run(finetuned.workdir)
    found = recalibrate_run(run, 1)
    jax.tree.map(np.testing.assert_array_equal, found.variables["batch_stats"], run.classifier.variables["batch_stats"])
    assert found.model == run.classifier.model


def test_a_head_fitted_on_a_frozen_network_is_a_workdir_that_can_be_trained_on(finetuned, tmp_path):
    extract_features(
        finetuned.workdir,
        "folder",
        tmp_path / "a.npz",
        read_config(finetuned.workdir).dataset.data_dir,
        tmp_path / "head",
    )
    assert int(load_state(tmp_path / "head").step) == 0


def test_what_the_start_says(torch_file, coloured, tmp_path, capsys):
    train(finetune(torch_file, coloured, {"train.iterations": 1}), tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert f"{torch_file}: these weights, of a cifar_resnet8 for images of 32 x 32 x 3 and 10 classes" in lines
    assert "the head is new (zero), for 2 classes: green, red" in lines
    frozen = "frozen: stem, stage1, stage2, stage3, with the weights' batch-norm statistics; trained: fc, 130 of 74,770"
    assert any(line.startswith(frozen) for line in lines)


def test_the_same_classes_keep_their_head(run_of_20):
    config, digits = small_config({"init.weights": str(run_of_20)}), tuple(map(str, range(10)))
    start, said = begun(config, digits)
    jax.tree.map(np.testing.assert_array_equal, start.variables, load(run_of_20).variables)
    assert "the head of the weights is kept for 10 classes" in said
    # Names that nobody gave say nothing of the classes.
    renamed, _ = begun(config, tuple(f"class {i}" for i in range(10)))
    assert not np.any(renamed.variables["params"]["fc"]["kernel"])


@pytest.mark.parametrize("head", ["zero", "normal", "keep"])
def test_heads(run_of_20, head):
    config, others = small_config({"init.weights": str(run_of_20), "init.head": head}), tuple("abcdefghij")
    (start, _), theirs = begun(config, others), load(run_of_20)
    kernel, old = (np.asarray(each.variables["params"]["fc"]["kernel"]) for each in (start, theirs))
    assert start.class_names == others
    if head == "zero":
        assert not kernel.any()
    elif head == "keep":
        np.testing.assert_array_equal(kernel, old)
    else:
        assert kernel.std() == pytest.approx(0.01, rel=0.1)
        again, _ = begun(config, others)
        np.testing.assert_array_equal(kernel, again.variables["params"]["fc"]["kernel"])
        config.seed = 1
        other, _ = begun(config, others)
        assert (np.asarray(other.variables["params"]["fc"]["kernel"]) != kernel).all()
    np.testing.assert_array_equal(
        start.variables["params"]["conv1"]["kernel"], theirs.variables["params"]["conv1"]["kernel"]
    )


@pytest.mark.slow
def test_averages_begin_with_the_weights(run_of_20, tmp_path):
    fields = {"init.weights": str(run_of_20), "train.ema_decay": 0.999999, "optimizer.learning_rate": 1e-6}
    run = train(small_config(OF_20 | fields | {"train.iterations": 10}), tmp_path / "run")
    for ours, theirs in zip(
        *(jax.tree.leaves(each.variables) for each in (run.classifier, load(run_of_20))), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rates_of_parts(run_of_20, tmp_path):
    """A factor of 0 is a part that stays; the optimiser sees it all the same."""
    fields = {"init.weights": str(run_of_20), "optimizer.rate_factors": (0.0, 0.0, 1.0, 1.0, 2.0)}
    run, theirs = train(small_config(OF_20 | fields), tmp_path / "run"), load(run_of_20)
    for name, part in run.classifier.variables["params"].items():
        same = [
            np.array_equal(*pair)
            for pair in zip(*map(jax.tree.leaves, (part, theirs.variables["params"][name])), strict=True)
        ]
        assert all(same) if name in ("conv1", "bn1", "stage1") else not any(same), name


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["backbone", "stage2", None])
def test_a_killed_run_goes_on_without_its_weights(torch_file, coloured, tmp_path, freeze):
    weights = shutil.copy(torch_file, tmp_path / "mine.safetensors")
    config = finetune(weights, coloured, {"init.freeze": freeze, "optimizer.rate_factors": (0.1, 0.2, 0.5, 1, 1)})
    train(config, tmp_path / "whole")
    train_until(10, config, tmp_path / "killed")
    assert saved_steps(tmp_path / "killed")[-1] == 10
    weights.unlink()
    train(config, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    # Nor does a complete one need them.
    assert train(config, tmp_path / "killed").result["step"] == 20


@pytest.mark.slow
def test_a_start_that_left_no_checkpoint_reads_them_again(torch_file, coloured, tmp_path, capsys):
    weights = shutil.copy(torch_file, tmp_path / "mine.safetensors")
    config = finetune(weights, coloured)
    train_until(0, config, tmp_path / "run")
    weights.rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"config.init.weights is .*mine.safetensors, which does not exist"):
        train(config, tmp_path / "run")
    (tmp_path / "away").rename(weights)
    train_until(10, config, tmp_path / "run")
    assert "the head is new" in capsys.readouterr().out


def test_weights_of_another_size_show_their_own_pixels(torch_file, coloured, tmp_path):
    """A window of 24 pixels, shown as the weights want it; what it is cut from is in proportion."""
    run = train(finetune(torch_file, coloured, {"stream.image_size": 24, "train.iterations": 1}), tmp_path / "run")
    assert run.classifier.image_shape == (24, 24, 3)
    assert read_config(tmp_path / "run").stream.resize_size == 24
    assert float(run.classifier.preprocessing.std[0, 0, 0]) == pytest.approx(255 * 0.229)


def test_a_run_that_began_with_other_weights(finetuned, torch_file, coloured, tmp_path):
    other = shutil.copy(torch_file, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"belongs to another config, which differs in init.weights \("):
        train(finetune(other, coloured), finetuned.workdir)


def test_a_workdir_of_the_version_before_begins_as_it_did(run_of_20, tmp_path):
    directory = shutil.copytree(run_of_20, tmp_path / "run")
    fields = json.loads((directory / "config.json").read_text())
    assert fields["version"] == 4
    del fields["init"], fields["optimizer"]["rate_factors"], fields["checksum"]
    (directory / "config.json").write_text(json.dumps(fields | {"version": 2}))
    config = read_config(directory)
    assert (config.init.weights, config.init.freeze, tuple(config.optimizer.rate_factors)) == (None, None, ())
    assert train(small_config(OF_20), directory).result["step"] == 20
    assert int(load_state(directory).step) == 20
    assert everything_saved(directory)


def test_the_doctor_looks_at_the_weights(torch_file, coloured, finetuned, tmp_path):
    def found(weights, workdir):
        result = doctor.examine(workdir, finetune(weights, coloured))
        assert {each["check"] for each in result["findings"]} >= {"weights", "config", "data", "workdir"}
        return next((each["grade"], each["says"]) for each in result["findings"] if each["check"] == "weights")

    grade, says = found(torch_file, tmp_path / "run")
    assert (grade, says.endswith("of a cifar_resnet8 for images of 32 x 32 x 3 and 10 classes")) == ("ok", True)
    assert found(tmp_path / "no.pth", tmp_path / "run")[0] == "impossible"
    assert found(torch_file, finetuned.workdir) == ("ok", "the run has begun, and needs them no more")
    # One that was killed before its first checkpoint reads them again.
    (tmp_path / "killed" / "checkpoints").mkdir(parents=True)
    config = read_config(finetuned.workdir)
    config.init.weights = str(tmp_path / "no.pth")
    claim(tmp_path / "killed", config)
    grade, says = found(tmp_path / "no.pth", tmp_path / "killed")
    assert (grade, "no.pth, which does not exist" in says) == ("impossible", True)


def test_weights_that_another_process_lacks_are_refused_here_too(torch_file, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(agreement, "exchange", lambda own: [asked.append(own) or own, "no such weights"])
    with pytest.raises(InputError, match=r"^process 1: no such weights$"):
        starting.read(torch_file, lambda line: None)
    with pytest.raises(InputError, match=r"^process 0: config.init.weights is .*no.pth, which does not exist"):
        starting.read(tmp_path / "no.pth", lambda line: None)
    # After one exchange, as the other process.
    assert len(asked) == 2


@pytest.mark.slow
def test_a_batch_of_one_image_is_one_where_all_statistics_are_frozen(torch_file, coloured, tmp_path):
    """Their maps of a pixel show nothing of an image to a batch norm that looks at the batch."""
    small_images = {"stream.image_size": 4, "train.batch_size": 1, "train.iterations": 1}
    train(finetune(torch_file, coloured, small_images), tmp_path / "run")
    with pytest.raises(InputError, match=r"stage3/first/bn1 would see one value of each channel"):
        train(finetune(torch_file, coloured, small_images | {"init.freeze": "stage2"}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_in_python_it_is_ten_lines(torch_file, coloured):
    """Without config and folder."""
    import resnet_jax as rj

    photos = rj.data.image_folder(coloured, image_size=32)
    classifier = rj.transfer(rj.load_torch(torch_file, log=lambda line: None), photos.class_names, freeze="backbone")
    optimizer = rj.training.sgd(0.01, momentum=0.9)
    state, step = rj.training.create_state(classifier, optimizer), rj.training.make_train_step(classifier, optimizer)
    for batch in photos.train.batches(batch_size=8, steps=20):
        state, _ = step(state, batch)
    classifier = classifier.replace(variables=state.variables)
    assert rj.evaluate(classifier, photos.validation).error == 0
