import json
from types import SimpleNamespace

import numpy as np
import pytest

from resnet_jax import configs
from resnet_jax.configs import fields
from resnet_jax.runs import config_file
from resnet_jax.sweeping.plan import Plan
from resnet_jax.sweeping.points import grid, parse_axes
from resnet_jax.sweeping.runs import Run, results_table, summarise
from resnet_jax.sweeping.slurm import SlurmArray


def make_run(directory, *, metrics=(), result=None, said=""):
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if result is not None:
        (directory / "result.json").write_text(json.dumps(result))
    run = Run({"seed": directory.name}, directory)
    run.log.write_text("$ resnet-jax train\nerror: of an earlier start\n")
    run.start()
    with run.log.open("a") as log:
        log.write("$ resnet-jax train\n" + said)
    return run


METRICS = [
    {"step": 10, "train_error": 0.5},
    {"step": 15, "train_error": 0.4, "validation_error": 0.3, "test_error": 0.1},
]


def test_a_complete_run_has_the_error_of_its_result(tmp_path):
    run = make_run(tmp_path / "0", metrics=METRICS, result={"step": 20, "split": "test", "test_error": 0.25})
    run.conclude("")
    assert (run.state, run.split, run.error) == ("complete", "test", 0.25)
    assert run.describe() == "seed=0: complete, test error 25.00%"


def test_a_search_never_sees_the_test_error(tmp_path):
    result = {"step": 20, "split": "test", "test_error": 0.25}
    run = make_run(tmp_path / "0", metrics=METRICS, result=result)
    run.conclude("", validation=True)
    assert (run.state, run.split, run.error) == ("complete", "validation", 0.3)
    run = make_run(tmp_path / "1", metrics=[{"step": 20, "test_error": 0.25}], result=result)
    run.conclude("", validation=True)
    assert run.state == "failed"
    assert run.as_json()["error"] is None
    run = make_run(tmp_path / "2", metrics=METRICS, result=result)
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    run.conclude("", validation=True)
    assert (run.state, run.error) == ("failed", None)
    assert run.message.endswith("line 3 is damaged and left out: remove its folder to train it again")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("going on\nerror: the loss is nan\nbye\n", "the loss is nan"),
        ("Traceback:\n  somewhere\nValueError: oh\n\n", "ValueError: oh"),
        ("", "it was killed"),
    ],
)
def test_a_failed_run_says_why_in_one_line(said, message, tmp_path):
    run = make_run(tmp_path / "0", said=said)
    run.conclude("it was killed")
    assert (run.state, run.message) == ("failed", message)
    assert run.describe() == f"seed=0: failed: {message} ({run.log})"
    assert run.as_json() == {
        "point": {"seed": "0"},
        "state": "failed",
        "split": None,
        "error": None,
        "message": message,
        "log": str(run.log),
    }


def complete(axes, errors, directory):
    points = grid(parse_axes(axes), "product")
    return [
        Run(point, directory, state="complete", split="test", error=error)
        for point, error in zip(points, errors, strict=True)
    ]


def test_mean_and_standard_deviation_are_numpys_over_complete_runs(tmp_path):
    errors = np.random.default_rng(0).random((2, 5))
    runs = complete(["model.depth=8,14", "seed=0,1,2,3,4"], errors.ravel().tolist(), tmp_path)
    failed = Run({"model.depth": "8", "seed": "5"}, tmp_path, state="failed")
    rows = summarise([*runs, failed])
    assert [row["point"] for row in rows] == [{"model.depth": "8"}, {"model.depth": "14"}]
    np.testing.assert_allclose([row["mean"] for row in rows], errors.mean(1))
    np.testing.assert_allclose([row["std"] for row in rows], errors.std(1, ddof=1))
    shown = [line.split() for line in results_table(rows, "").splitlines()[2:]]
    expected = [f"{100 * row.mean():.2f} ± {100 * row.std(ddof=1):.2f}" for row in errors]
    assert shown == [[depth, "5", *spread.split()] for depth, spread in zip(("8", "14"), expected, strict=True)]


def test_one_seed_has_no_spread(tmp_path):
    (row,) = summarise(complete(["model.depth=8"], [0.25], tmp_path))
    assert (row["mean"], row["std"]) == (0.25, None)
    table = results_table([row], "").splitlines()
    assert (table[-1].split(), table[0].split()[2:4]) == (["8", "1", "25.00"], ["test", "error,"])


def test_a_table_says_which_images_its_errors_are_of(tmp_path):
    """Points of several data sets can be measured on splits of other names, which no mean mixes."""
    runs = complete(["seed=0,1"], [0.25, 0.5], tmp_path)
    runs[1].split = "validation"
    rows = summarise(runs)
    assert [(row["split"], row["mean"]) for row in rows] == [("test", 0.25), ("validation", 0.5)]
    table = [line.split() for line in results_table(rows, "").splitlines()]
    assert table[0][1:3] == ["test/validation", "error,"]
    assert [line[-2:] for line in table[2:]] == [["25.00", "test"], ["50.00", "validation"]]
    assert results_table(rows[1:], "").splitlines()[0].split()[1:3] == ["validation", "error,"]


def longer(directory, *, asked, config, done):
    """A point of so many iterations that are asked for, whose folder holds a result and a config of other lengths."""
    plan = Plan("digits", {"train.iterations": str(asked), "optimizer.boundaries": "()"}, directory, validation=False)
    folder = directory / "seed=0"
    folder.mkdir()
    text = config_file.write_text(configs.load("digits", {"train.iterations": config, "optimizer.boundaries": "()"}))
    (folder / "config.json").write_text(text)
    (folder / "result.json").write_text(json.dumps({"step": done, "split": "test", "test_error": 0.5}))
    return plan.run({"seed": "0"})


# As a start leaves it that is refused, and one that was killed after it had made the run longer.
@pytest.mark.parametrize("config", [20, 40])
def test_a_result_of_fewer_iterations_is_none_of_the_longer_sweep(tmp_path, config):
    run = longer(tmp_path, asked=40, config=config, done=20)
    assert (run.state, run.error) == ("waiting", None)
    run.start()
    run.log.write_text("$ resnet-jax train\nerror: it cannot become longer\n")
    queued = SimpleNamespace(done=lambda: False)
    array = SlurmArray.__new__(SlurmArray)
    array._jobs = [(run, queued)]
    assert array.ended() == []
    run.conclude("")
    assert (run.state, run.error, run.message) == ("failed", None, "it cannot become longer")


def test_a_result_of_all_iterations_is_complete(tmp_path):
    run = longer(tmp_path, asked=40, config=40, done=40)
    assert (run.state, run.error) == ("complete", 0.5)


def test_a_sweep_of_given_weights_is_started_again(tmp_path):
    weights = {"init.weights": str(tmp_path / "weights.th"), "dataset.data_dir": str(tmp_path)}
    config = configs.load("finetune", weights)
    defaults = configs.load("folder")
    config.update_from_flattened_dict({name: fields.flat(defaults)[name] for name in fields.OF_WEIGHTS})
    folder = tmp_path / "seed=0"
    folder.mkdir()
    (folder / "config.json").write_text(config_file.write_text(config))
    run = Plan("finetune", weights, tmp_path, validation=False).run({"seed": "0"})
    assert run.state == "waiting"
