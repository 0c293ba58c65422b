"""Runs in folders of any name, and runs whose pictures or events cannot be written: no result waits for either."""

import json
import os
import shutil

import numpy as np
import pytest

from resnet_jax.cli.main import main
from resnet_jax.errors import InputError, printable
from resnet_jax.runs import workdir
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loop import train
from resnet_jax.runs.metrics_log import Events, MetricsLog
from small_run import lines_of, result_of, saved_steps, small_config

# Rich's markup, mathtext that is none, what a legend leaves out, a line end, and what an address or JSON might hold.
NAMES = ["_$x_{$ [/b][red]:boom:", "[lr=0.1]", 'two\nlines %2F?#"*\\\x1b~日本']

FIELDS = {"train.iterations": 20, "train.checkpoint_every": 10}


def train_again(directory):
    return train(small_config(FIELDS), directory).result


def break_pictures(monkeypatch):
    def refuse(*arguments, **settings):
        raise ValueError("no picture today\nTraceback")

    monkeypatch.setattr("resnet_jax.analysis.plots.plot_curves", refuse)
    monkeypatch.setattr("resnet_jax.analysis.plots.plot_confusion", refuse)


@pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])], ids=ascii
)
def test_a_run_and_its_evaluation_in_a_folder_of_any_name(name, run_of_20, tmp_path, capsys):
    directory = tmp_path / name
    # As a run that was killed after its first checkpoint.
    shutil.copytree(run_of_20, directory, ignore=shutil.ignore_patterns("result.json", "curves.png", "20"))
    train_again(directory)
    assert saved_steps(directory) == [10, 20]
    assert result_of(directory) == result_of(run_of_20)
    assert (directory / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert f"curves     {printable(str(directory))}/curves.png\n" in capsys.readouterr().out

    score = evaluate_runs([str(directory)], output=tmp_path / f"{name} out")
    assert {path.name for path in (tmp_path / f"{name} out").iterdir()} >= {"confusion.png", "result.json"}
    assert score["workdirs"] == [str(directory)]
    assert main(["predict", f"--workdir={directory}", "absent.png"]) == 2
    assert capsys.readouterr().err == "error: there is no image file or folder absent.png\n"


def test_a_name_that_checkpoints_cannot_have_is_refused_at_once(tmp_path):
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(InputError, match="is no UTF-8"):
        train_again(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_drawn_stops_no_run(run_of_20, tmp_path, capsys, monkeypatch):
    directory = tmp_path / "run"
    shutil.copytree(run_of_20, directory, ignore=shutil.ignore_patterns("result.json", "curves.png"))
    with monkeypatch.context() as patch:
        break_pictures(patch)
        result = train_again(directory)
        said = capsys.readouterr().out.splitlines()
        assert f"the picture {directory}/curves.png is missing: no picture today" in said
        assert not any(line.startswith("curves ") for line in said)
        assert train_again(directory) == result == workdir.read_result(directory)
    # The same command draws what is missing, and nothing else.
    assert train_again(directory) == result
    assert (directory / "curves.png").exists()


def test_a_picture_that_cannot_be_drawn_stops_no_evaluation(run_of_20, tmp_path, monkeypatch):
    break_pictures(monkeypatch)
    said = []
    score = evaluate_runs([run_of_20], output=tmp_path / "out", log=said.append)
    assert said == [f"the picture {tmp_path / 'out' / 'confusion.png'} is missing: no picture today"]
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == score


def test_events_that_cannot_be_written_stop_no_run(tmp_path, monkeypatch):
    said = []
    (tmp_path / "events").write_text("no folder")
    with MetricsLog(tmp_path, 0, said.append) as log:
        log.write(10, {"train_loss": 0.5})
        log.write(20, {"train_loss": 0.25})
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 20]
    assert len(said) == 1
    assert said[0].startswith(f"the rest of {tmp_path}/events for TensorBoard is missing: ")

    said.clear()
    events = Events(tmp_path / "others", 0, said.append)
    events.write(10, {"train_loss": 0.5})
    monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.write", lambda *_: np.zeros(0)[1])
    for step in (20, 30):
        events.write(step, {"train_loss": 0.5})
    events.close()
    assert said == [
        f"the rest of {tmp_path}/others for TensorBoard is missing: index 1 is out of bounds for axis 0 with size 0"
    ]


def test_output_that_nobody_reads_stops_no_run(run_of_20, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    shutil.copytree(run_of_20, directory, ignore=shutil.ignore_patterns("result.json", "curves.png"))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert train_again(directory)["step"] == 20
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)
    assert (directory / "result.json").exists()
