"""Which checkpoints a run keeps, and which one is loaded."""

import json
import shutil

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import load_file

from resnet_jax.cli.main import main
from resnet_jax.errors import InputError
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loading import load, load_run, load_state
from resnet_jax.runs.loop import train
from small_run import OF_20, assert_same_run, lines_of, result_of, saved_steps, small_config, train_until

# The rate rises to where the validation error does too.
FIELDS = {
    "dataset.validation_images": 100,
    "optimizer.boundaries": (30,),
    "optimizer.factor": 50.0,
    "train.eval_every": 10,
    "train.keep_last": 1,
    "train.keep_best": True,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a complete run that keeps its best checkpoint, which tests must not change."""
    directory = tmp_path_factory.mktemp("kept") / "run"
    train(small_config(FIELDS), directory)
    return directory


def test_the_best_checkpoint_is_kept_and_is_not_the_result(kept, capsys):
    errors = {line["step"]: line["validation_error"] for line in lines_of(kept)}
    assert list(errors) == [10, 20, 30, 40, 50, 60]
    best = min(errors, key=lambda step: errors[step])
    assert errors[best] < errors[60]
    assert saved_steps(kept) == [best, 60]
    result = result_of(kept)
    assert (result["step"], result["split"]) == (60, "test")
    assert result["best"] == {"step": best, "validation_error": errors[best]}

    run = load_run(kept, checkpoint="best")
    assert run.step == best
    saved = ocp.load_checkpointables(kept / "checkpoints" / str(best), {"variables": run.classifier.variables})
    for one in (load(kept, checkpoint="best"), load(kept, checkpoint=best), load(kept, checkpoint=str(best))):
        jax.tree.map(np.testing.assert_array_equal, one.variables, saved["variables"])
    assert int(load_state(kept, checkpoint="best").step) == best
    assert load_run(kept).step == 60
    score = evaluate_runs([kept], "validation", checkpoint="best")
    assert score["error"] == pytest.approx(errors[best])
    assert (score["steps"], score["checkpoint"]) == ([best], "best")
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={kept}", "--checkpoint=best"]) == 0
    assert capsys.readouterr().out.endswith(f" after {best} iterations, the best on validation images\n")


@pytest.mark.slow
def test_a_run_that_was_killed_knows_its_best_checkpoint(kept, tmp_path):
    run = tmp_path / "run"
    train_until(50, small_config(FIELDS), run)
    assert saved_steps(run)[0] == saved_steps(kept)[0]
    assert load_run(run, checkpoint="best").step == saved_steps(kept)[0]
    train(small_config(FIELDS), run)
    assert_same_run(run, kept)
    assert saved_steps(run) == saved_steps(kept)


@pytest.mark.slow
def test_a_run_that_keeps_its_best_one_late_names_one_that_is_there(kept, tmp_path, capsys):
    run, best = tmp_path / "run", saved_steps(kept)[0]
    train_until(50, small_config(FIELDS | {"train.keep_best": False, "train.checkpoint_every": 10}), run)
    assert saved_steps(run) == [50]
    capsys.readouterr()
    train(small_config(FIELDS), run)
    said = [line for line in capsys.readouterr().out.splitlines() if "was not kept" in line]
    assert said == [
        f"the least validation error was that of iteration {best}, whose checkpoint was not kept: of those kept it is "
        "iteration 50's"
    ]
    errors = {line["step"]: line["validation_error"] for line in lines_of(run)}
    there = min((50, 60), key=lambda step: errors[step])
    assert errors[best] < errors[there]
    assert result_of(run)["best"] == {"step": there, "validation_error": errors[there]}
    assert load_run(run, checkpoint="best").step == there


def test_the_test_images_choose_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="keep_best=true chooses by validation images, and this run has test images"):
        train(small_config({"train.keep_best": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (15, r"there is no checkpoint of iteration 15 in .*checkpoints: there are 10, 20$"),
        ("best", "has no validation error that a checkpoint could be the best by: config.dataset.validation_images"),
        ("first", "checkpoint is 'first', but it must be last, best or an iteration"),
        (None, "checkpoint is None, but it must be last, best or an iteration"),
        (4.0, "checkpoint is 4.0, but it must be last, best or an iteration"),
        (-10, "there is no checkpoint of iteration -10"),
    ],
)
def test_a_checkpoint_that_is_not_there(run_of_20, checkpoint, message):
    with pytest.raises(InputError, match=message) as error:
        load(run_of_20, checkpoint=checkpoint)
    assert "\n" not in str(error.value)


def test_a_best_checkpoint_that_was_not_kept_is_named(kept, tmp_path):
    run = shutil.copytree(kept, tmp_path / "run")
    best = saved_steps(run)[0]
    shutil.rmtree(run / "checkpoints" / str(best))
    with pytest.raises(InputError, match=f"that of iteration {best}, whose checkpoint was not kept, .* there are 60$"):
        load(run, checkpoint="best")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)
def test_a_damaged_checkpoint_that_is_asked_for_is_not_passed_over(run_of_20, tmp_path):
    run = shutil.copytree(run_of_20, tmp_path / "run")
    largest = max((run / "checkpoints" / "20" / "variables").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint 20 in .* is damaged: "):
        load(run, checkpoint=20)
    said = []
    assert load_run(run, said.append).step == 10
    assert len(said) == 1


@pytest.mark.parametrize("fields", [{"seed": 7}, {"model.depth": 14}, {"optimizer.learning_rate": 0.2}])
def test_without_its_config_a_run_is_nobody_elses(run_of_20, tmp_path, fields):
    run = shutil.copytree(run_of_20, tmp_path / "run")
    (run / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json, and its checkpoints are of a run with other fields"):
        train(small_config(OF_20 | fields), run)
    assert not (run / "config.json").exists()


def test_a_config_that_was_lost_is_written_again(run_of_20, tmp_path):
    run = shutil.copytree(run_of_20, tmp_path / "run")
    (run / "config.json").unlink()
    train(small_config(OF_20), run)
    assert_same_run(run, run_of_20)
    assert (run / "config.json").read_bytes() == (run_of_20 / "config.json").read_bytes()


def test_a_result_alone_is_no_run(run_of_20, tmp_path):
    shutil.copy(run_of_20 / "result.json", tmp_path)
    with pytest.raises(InputError, match=r"holds a result and neither config\.json nor checkpoints"):
        train(small_config(OF_20), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_damaged_result_stops_no_reader_of_checkpoints(run_of_20, tmp_path):
    run = shutil.copytree(run_of_20, tmp_path / "run")
    (run / "result.json").write_text("{")
    said = []
    assert load_run(run, said.append).step == 20
    assert said == []


def test_a_complete_run_says_that_its_checkpoints_are_gone(run_of_20, tmp_path, capsys):
    run = shutil.copytree(run_of_20, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "20")
    said = []
    assert load_run(run, said.append).step == 10
    assert said == ["this is the checkpoint of iteration 10: that of 20, of result.json, is gone"]
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match=r"is complete, but its checkpoints are gone: remove its result\.json"):
        load(run)
    capsys.readouterr()
    train(small_config(OF_20), run)
    printed = capsys.readouterr().out
    assert "nothing to train" in printed
    assert f"checkpoints/20 is gone: without {run / 'result.json'} this trains it again" in printed


def test_every_command_takes_a_checkpoint(run_of_20, tmp_path, capsys):
    files = [tmp_path / "10.safetensors", tmp_path / "20.safetensors"]
    for step, file in zip((10, 20), files, strict=True):
        assert main(["convert", str(run_of_20), str(file), f"--checkpoint={step}"]) == 0
    assert main(["convert", str(run_of_20), str(tmp_path / "last.safetensors")]) == 0
    # Not their bytes: of two files the metadata come in any order.
    first, second, last = (load_file(file)["linear.weight"] for file in (*files, tmp_path / "last.safetensors"))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(last, second)
    assert main(["export", f"--workdir={run_of_20}", f"--output={tmp_path / 'x.stablehlo'}", "--checkpoint=10"]) == 0
    assert json.loads((tmp_path / "x.stablehlo.json").read_text())["iteration"] == 10
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={run_of_20}", "--checkpoint=10", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == [10]
    for command in (["evaluate"], ["predict", "photo.png"], ["export", f"--output={tmp_path / 'y'}"]):
        assert main([*command, f"--workdir={run_of_20}", "--checkpoint=15"]) == 2
        assert "there is no checkpoint of iteration 15" in capsys.readouterr().err
    assert main(["convert", str(files[0]), str(tmp_path / "new"), "--checkpoint=10"]) == 2
    assert "--checkpoint is of a run, but" in capsys.readouterr().err
