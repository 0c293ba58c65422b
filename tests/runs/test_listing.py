"""Runs side by side: whole, stopped, damaged and half written ones."""

import functools
import json
import shutil

import pytest

from resnet_jax.cli.main import main
from resnet_jax.errors import InputError
from resnet_jax.runs import config_file, listing, terminal
from resnet_jax.runs.listing import list_runs
from small_run import small_config


def make(directory, fields=None, *, metrics=(), result=None):
    """A workdir as a run leaves it, without its checkpoints."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(config_file.write_text(small_config(fields)))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if result:
        (directory / "result.json").write_text(json.dumps(result))
    return directory


LINES = [
    {
        "step": 20,
        "train_error": 0.5,
        "train_loss": 1.5,
        "validation_error": 0.25,
        "validation_loss": 1.0,
        "seconds": 2.0,
    },
    {"step": 40, "train_error": 0.25, "train_loss": 1.0, "seconds": 3.0},
]
RESULT = {
    "step": 60,
    "train_error": 0.125,
    "split": "test",
    "test_error": 0.0625,
    "test_loss": 0.1,
    "parameters": 78_000,
}


@pytest.fixture
def place(tmp_path):
    """Runs of all kinds, and folders that are none."""
    make(tmp_path / "depth=14", {"model.depth": 14, "seed": 3}, metrics=LINES)
    make(tmp_path / "depth=8", metrics=LINES, result=RESULT | {"training_seconds": 7.0})
    make(tmp_path / "inner" / "begun")
    broken = make(tmp_path / "broken", metrics=LINES)
    (broken / "config.json").write_text("{")
    with (make(tmp_path / "line", metrics=LINES) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "tra\n{"step"')
    make(tmp_path / "odd", result={"step": 60, "test_error": "none"})
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "resnet18"}')
    (tmp_path / "depth=8" / "checkpoints" / "20").mkdir(parents=True)
    (tmp_path / "depth=8" / "checkpoints" / "config.json").write_text("{}")
    (tmp_path / "again").symlink_to(tmp_path)
    return tmp_path


def test_what_is_known_of_runs(place):
    runs = {str(run.workdir.relative_to(place)): run for run in list_runs(place)}
    # Numbers in names are sorted as numbers, and a folder is there once.
    assert list(runs) == ["broken", "depth=8", "depth=14", "inner/begun", "line", "odd"]
    whole, stopped = runs["depth=8"], runs["depth=14"]
    assert (whole.state, whole.step, whole.iterations, whole.parameters, whole.seconds) == (
        "complete",
        60,
        60,
        78_000,
        7,
    )
    # The result's errors, and the last ones of a split that it does not have.
    assert whole.errors == {"train": 0.125, "validation": 0.25, "test": 0.0625}
    assert (whole.network, whole.dataset) == ("cifar_resnet8", "digits")
    assert (stopped.state, stopped.step, stopped.iterations, stopped.seconds) == ("unfinished", 40, 60, 5)
    assert stopped.errors == {"train": 0.25, "validation": 0.25}
    assert (runs["inner/begun"].state, runs["inner/begun"].step) == ("unfinished", 0)
    assert [each for run in (whole, stopped) for each in run.problems] == []
    assert (runs["broken"].state, runs["broken"].step, runs["broken"].fields) == ("damaged", 40, {})
    assert "config.json" in runs["broken"].problems[0]
    assert (runs["line"].state, runs["line"].step) == ("unfinished", 40)
    assert runs["line"].problems == [f"{place / 'line' / 'metrics.jsonl'}: line 3 is damaged and left out"]
    assert (runs["odd"].state, runs["odd"].errors) == ("complete", {})
    assert listing.differing(runs.values()) == ["seed"]


def test_a_damaged_config_beside_a_result_or_metrics(tmp_path, capsys):
    for name, result in (("whole", RESULT), ("both", {"step": 60}), ("begun", None)):
        (make(tmp_path / name, result=result) / "config.json").write_text("{")
    (tmp_path / "whole" / "metrics.jsonl").unlink()
    # What evaluate --output writes is no run.
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "result.json").write_text('{"steps": [60], "error": 0.0625}')
    runs = {run.workdir.name: run for run in list_runs(tmp_path)}
    assert {name: (run.state, run.step) for name, run in runs.items()} == {
        "begun": ("damaged", 0),
        "both": ("damaged", 0),
        "whole": ("damaged", 60),
    }
    assert runs["whole"].errors == {"train": 0.125, "test": 0.0625}
    assert [len(run.problems) for run in runs.values()] == [1, 2, 1]
    assert "config.json" in runs["whole"].problems[0]
    assert "result.json is damaged" in runs["both"].problems[1]


def test_one_run_and_several_folders(place):
    (run,) = list_runs(place / "depth=8")
    assert listing.short_names([run]) == {place / "depth=8": "depth=8"}
    runs = list_runs(place / "inner", place / "depth=8", place / "depth=8")
    assert list(listing.short_names(runs).values()) == ["inner/begun", "depth=8"]


def test_a_table_of_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["runs", "."]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    headings = "run network data state iterations train error validation error test error parameters seconds"
    assert shown[0] == [*headings.split(), "last", "change"]
    rows = {line[0]: " ".join(line[1:-2]) for line in shown[2:8]}  # without the time
    assert rows["depth=8"] == "cifar_resnet8 digits complete 60 12.50% 25.00% 6.25% 78,000 7"
    assert rows["depth=14"] == "cifar_resnet14 digits unfinished 40 of 60 25.00% 25.00% 5"
    assert rows["broken"] == "damaged 40 25.00% 25.00% 5"
    below = [" ".join(line) for line in shown[9:]]
    assert below[:3] == ["depth=8: seed=0", "depth=14: seed=3", "inner/begun: seed=0"]
    assert below[-2].startswith("broken: broken has no readable config.json")
    assert below[-1] == "line: line/metrics.jsonl: line 3 is damaged and left out"


def test_a_terminal_has_the_columns_that_it_has_space_for(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    runs = list_runs(".")
    names = listing.short_names(runs)
    monkeypatch.setattr(terminal, "console", functools.partial(terminal.console, width=80))
    shown = listing.as_table(runs, names).splitlines()
    assert "parameters" not in "".join(shown)
    assert all(len(line) <= 80 for line in shown[:10])
    assert any(line.split()[:2] == ["depth=14", "cifar_resnet14"] for line in shown)


def test_fields_in_which_runs_differ_are_named_below_the_table(tmp_path, capsys):
    fields = {"seed": 1, "model.shortcut": "B", "dataset.pad": 2, "optimizer.decay": "kernels"}
    make(tmp_path / "a", fields)
    make(tmp_path / "b", {"train.log_every": 1, "mesh.data": 2})
    # What was trained elsewhere has fields that nothing was trained with.
    (make(tmp_path / "torch", {"optimizer.momentum": 0.5}) / "checkpoints" / "0").mkdir(parents=True)
    assert main(["runs", str(tmp_path)]) == 0
    *_, one, other = capsys.readouterr().out.splitlines()
    assert sorted(one.removeprefix("a: ").split(", ")) == sorted(f"{name}={value}" for name, value in fields.items())
    assert other.startswith("b: ")
    assert "log_every" not in other
    assert "momentum" not in other


def test_runs_as_json_and_their_curves_in_one_picture(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["runs", "--format=json", "depth=8", "depth=14", "--output=both.png"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [(run["workdir"], run["state"], run["step"]) for run in runs] == [
        ("depth=8", "complete", 60),
        ("depth=14", "unfinished", 40),
    ]
    assert runs[1]["fields"]["seed"] == 3
    assert (place / "both.png").read_bytes()[:4] == b"\x89PNG"


def test_weights_that_were_converted_are_no_run_that_was_stopped(tmp_path):
    make(tmp_path / "torch")
    (tmp_path / "torch" / "checkpoints" / "0").mkdir(parents=True)
    assert [run.state for run in list_runs(tmp_path)] == ["weights"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("runs empty", "there is no run in or below empty: resnet-jax train makes some"),
        ("runs absent", "there is no folder absent: give one below which there are runs"),
        ("runs", "there is no folder runs"),
        ("runs begun --output=curves.jpg", "--output is curves.jpg, but it is a picture"),
        ("runs begun --output=curves.png", "nothing to draw in curves.png: no run has written metrics yet"),
        ("runs begun --format=csv", "--format=csv is not one of table, json"),
    ],
)
def test_what_cannot_be_listed(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "begun")
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "empty"]


def test_a_finished_run_is_as_its_result_says(run_of_20, tmp_path):
    shutil.copytree(run_of_20, tmp_path / "run")
    (run,) = list_runs(tmp_path)
    result = json.loads((run_of_20 / "result.json").read_text())
    assert (run.state, run.step, run.problems) == ("complete", 20, [])
    assert run.errors["test"] == result["test_error"]
    assert run.parameters == result["parameters"]
    (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"test_error": 0.0}))
    (run,) = list_runs(tmp_path)
    assert (run.state, run.errors["train"]) == ("damaged", result["train_error"])
    with pytest.raises(InputError, match="there is no folder"):
        list_runs(tmp_path / "run" / "result.json")
