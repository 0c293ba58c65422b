"""A sweep whose folder lies in a bucket finds what one on a disk finds, also when it is killed."""

import json
import subprocess
import sys
import time

import pytest

from resnet_jax.cli.main import main
from resnet_jax.files import expanded
from resnet_jax.sweeping.local import LocalProcesses
from resnet_jax.sweeping.points import parse_axes
from resnet_jax.sweeping.runs import Run
from resnet_jax.sweeping.search import Search
from small_run import FIELDS

pytestmark = pytest.mark.slow

RATES = ("0.1", "1e30", "0.1", "0.1")  # the second one diverges
TINY = {**FIELDS, "train.iterations": 8, "train.log_every": 2, "train.checkpoint_every": 4, "train.eval_every": 8}


def command(directory):
    fields = {**TINY, "optimizer.weight_decay": 0}  # with it such a rate would be refused before
    overrides = [f"--config.{field}={value}" for field, value in fields.items()]
    axes = ["--axis=seed=0,1,2,3", f"--axis=optimizer.learning_rate={','.join(RATES)}", "--combine=zip", "--jobs=2"]
    return ["sweep", "--config=digits", *overrides, *axes, f"--workdir={directory}"]


@pytest.fixture(scope="module")
def on_a_disk(tmp_path_factory):
    directory = tmp_path_factory.mktemp("disk") / "sweep"
    assert main(command(directory)) == 2
    return json.loads((directory / "results.json").read_text())


def test_a_sweep_that_is_killed_goes_on_and_finds_the_same(server, place, on_a_disk, capsys):
    folder = expanded(place, remote=True)
    names = [f"seed={seed},optimizer.learning_rate={rate}" for seed, rate in enumerate(RATES)]
    process = subprocess.Popen([sys.executable, "-m", "resnet_jax.cli.main", *command(place)])
    deadline = time.monotonic() + 300
    while not any((folder / name / "result.json").exists() for name in names):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.communicate()
    assert not (folder / "results.json").exists()

    assert main(command(place)) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: 1 of 4 points failed: read {folder / names[1] / 'log.txt'}")
    found = json.loads((folder / "results.json").read_bytes())
    assert found["rows"] == on_a_disk["rows"]
    assert [each["state"] for each in found["points"]] == ["complete", "failed", "complete", "complete"]
    assert "not finite" in found["points"][1]["message"]
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    # What the first processes printed in the last half minute before the kill is lost.
    log = (folder / names[3] / "log.txt").read_bytes().decode()
    assert log.startswith("$ resnet-jax train --config=digits")
    assert "iteration 8" in log

    assert main(["runs", place, "--format=json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_a_search_goes_on_with_the_study_in_the_bucket(server, place, tmp_path):
    folder, axes = expanded(place, remote=True), parse_axes(["optimizer.learning_rate=0.01..1:log"])
    search = Search(axes, 3, folder, tmp_path)
    point = search.ask()
    search.tell(point, 0.25)
    search.ask()
    (tmp_path / "study.db").unlink()  # as on another machine
    again = Search(axes, 3, folder, tmp_path)
    assert again.complete == [point]
    assert again.left == 2


def test_a_study_that_cannot_be_written_for_a_while_stops_no_sweep(server, place, tmp_path, capsys):
    folder, axes = expanded(place, remote=True), parse_axes(["optimizer.learning_rate=0.01..1:log"])
    search = Search(axes, 3, folder, tmp_path)
    server.fault = lambda method, path: 403 if method in ("PUT", "POST") else None
    search.tell(search.ask(), 0.25)
    assert capsys.readouterr().err.count("is missing") == 2
    server.fault = None
    search.tell(search.ask(), 0.5)
    (tmp_path / "study.db").unlink()
    assert len(Search(axes, 3, folder, tmp_path).complete) == 2


def test_the_end_of_a_process_is_noticed_and_its_log_comes_when_the_server_is_back(server, place, tmp_path):
    (tmp_path / "config.py").write_text("raise SystemExit('error: none of this')")
    processes, run = LocalProcesses(1), Run({"seed": "0"}, expanded(place, remote=True))
    server.fail_for(3)
    run.start()
    processes.start([(run, ["train", f"--config={tmp_path / 'config.py'}"])])
    ended, deadline = [], time.monotonic() + 300
    while not ended:
        assert time.monotonic() < deadline
        ended = processes.ended()
        time.sleep(0.1)
    assert ended[0][0] is run
    assert run.log.read_bytes().startswith(b"$ resnet-jax train")
    run.conclude(ended[0][1])
    assert run.message == "none of this"


def test_jobs_of_slurm_want_a_file_system(server, place, capsys):
    assert main([*command(place), "--launcher=slurm", "--slurm=time=10"]) == 2
    assert "--launcher=slurm keeps the files of its jobs in the folder of the sweep" in capsys.readouterr().err
