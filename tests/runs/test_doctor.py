import json
import os
import re
import socket
import subprocess
import sys

import jax
import pytest
from PIL import Image

from findings import grades, said
from resnet_jax.cli.main import main
from resnet_jax.configs import parsing
from resnet_jax.data import shared_memory
from resnet_jax.distributed import agreement
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.runs import doctor
from resnet_jax.runs.doctor import Finding
from resnet_jax.runs.workdir import claim

# Whatever this machine's disk is.
pytestmark = pytest.mark.usefixtures("roomy_disk")

DIGITS = ["--config=digits", "--config.model.depth=8"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = parsing.load("digits")
    return doctor.examine(tmp_path_factory.mktemp("doctor") / "runs" / "new", config)


def test_result_is_json_and_complete(result):
    assert json.loads(json.dumps(result)) == result
    assert grades(result) == dict.fromkeys(
        ("devices", "processes", "versions", "config", "data", "mesh", "workdir"), "ok"
    )
    assert result["grade"] == "ok"
    assert said(result, "devices") == "8 × cpu (cpu)"
    assert said(result, "processes") == "1 on 1 host"
    assert said(result, "data") == "1437 images to train on"
    assert said(result, "mesh") == "data 8 × fsdp 1"
    text = doctor.render(result)
    for word in ("fake devices", f"jax {jax.__version__}", *(f"{name}: " for name in grades(result))):
        assert word in text


def test_a_workdir_that_is_not_there_is_not_made(tmp_path):
    result = doctor.examine(tmp_path / "runs" / "new")
    assert said(result, "workdir").startswith(f"every process can write in {tmp_path}, ")
    assert list(tmp_path.iterdir()) == []


def test_the_workdir_of_another_config_is_found(tmp_path):
    claim(tmp_path, parsing.load("digits"))
    before = sorted(tmp_path.rglob("*"))
    assert doctor.examine(tmp_path, parsing.load("digits"))["grade"] == "ok"
    result = doctor.examine(tmp_path, parsing.load("digits", {"model.depth": 56}))
    assert result["grade"] == "impossible"
    assert "differs in model.depth (20 there, 56 asked for)" in said(result, "workdir")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_train_would_refuse_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for flag, message in (
        ("--config.train.batch_size=12", "mesh: config.train.batch_size=12 cannot be divided by 8 devices"),
        ("--config.mesh.fsdp=3", "mesh: mesh.fsdp is 3, which does not divide the 8 devices"),
        ("--config.optimizer.learning_rate=0", "config: config.optimizer.learning_rate is 0"),
    ):
        assert main(["doctor", *DIGITS, flag]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: training is impossible here; {message}")
        assert captured.err.count("\n") == 1
        assert "impossible" in captured.out
    assert list(tmp_path.iterdir()) == []


def test_data_that_are_absent_and_batches_without_room_are_found(tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / split / "only").mkdir(parents=True)
        for i in range(4):
            Image.new("L", (40, 40)).save(tmp_path / split / "only" / f"{i}.png")

    def examined(folder, *fields):
        fields = [f"dataset.data_dir={folder}", "mesh.data=1", *fields]
        return doctor.examine(config=parsing.load("folder", fields))

    says = said(examined(tmp_path), "data")
    assert re.match("4 photographs to train on(, .* in /dev/shm)?; 4 of them are read in ", says)
    assert "does not exist" in said(examined(tmp_path / "none"), "data")
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 0)
    result = examined(tmp_path, "stream.num_workers=2")
    assert grades(result)["data"] == result["grade"] == "impossible"
    assert said(result, "data").startswith("/dev/shm has 0 MiB free, but 2 workers keep up to ")


def test_what_processes_differ_in_is_said_of_them():
    ok, bad = Finding("data", "ok", "3 images"), Finding("data", "impossible", "no such folder")
    assert doctor._together([ok, ok]) == ok
    assert doctor._together([ok, bad, bad]).says == "process 1, 2: no such folder"
    assert doctor._together([bad, bad]) == bad


def test_versions_that_differ_make_training_impossible(monkeypatch):
    exchange = agreement.exchange

    def other(own):
        said = exchange(own)
        return [*said, {**said[0], "jax": "0.1.2"}] if isinstance(own, dict) and "jax" in own else said

    monkeypatch.setattr(agreement, "exchange", other)
    result = doctor.examine()
    assert grades(result)["versions"] == "impossible"
    assert f"jax is '{jax.__version__}' on process 0 and '0.1.2' on process 1" in said(result, "versions")


def test_unequal_devices_are_refused(monkeypatch):
    class Device:
        def __init__(self, process):
            self.process_index, self.id = process, 0

    monkeypatch.setattr(jax, "devices", lambda: [Device(0), Device(0), Device(1)])
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(InputError, match="process 0 has 2, process 1 has 1 devices: give every process the same"):
        make_mesh()


def test_an_accelerator_that_is_left_unused_gets_attention(monkeypatch):
    monkeypatch.setattr("glob.glob", lambda pattern: [pattern] if "nvidia" in pattern else [])
    (finding,) = [each for each in doctor.examine()["findings"] if each["check"] == "devices"]
    assert finding["grade"] == "attention"
    assert ".[cuda]" in finding["advice"]


def test_a_process_that_should_not_be_alone(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    (finding,) = [each for each in doctor.examine()["findings"] if each["check"] == "processes"]
    assert finding["grade"] == "attention"
    assert "--distributed=slurm" in finding["advice"]


@pytest.mark.parametrize("workdir", ["az://bucket/run", "file:///bucket"])
def test_what_is_neither_a_folder_nor_in_a_bucket_is_no_workdir(workdir, capsys):
    assert main(["doctor", f"--workdir={workdir}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is no folder" in error


def test_a_workdir_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert main(["doctor", f"--workdir={tmp_path / 'file'}", "--format=json"]) == 2
    captured = capsys.readouterr()
    assert grades(json.loads(captured.out))["workdir"] == "impossible"
    assert captured.err.startswith("error: training is impossible here; workdir: process 0 cannot write in ")
    assert captured.err.count("\n") == 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(port, process, count, devices, workdir):
    where = [f"--distributed=localhost:{port}", f"--num_processes={count}", f"--process_id={process}"]
    command = [sys.executable, "-m", "resnet_jax.cli.main", "doctor", *DIGITS, *where, f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [*command, "--format=json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_pair(devices, workdirs):
    """Statuses, outputs and errors of two processes of one run."""
    port = free_port()
    started = [start(port, i, 2, devices[i], workdirs[i]) for i in range(2)]
    try:
        said = [process.communicate(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], *zip(*said, strict=True)


def read(output):
    # The library that connects CPU processes greets on stdout, with threads that cut each other's lines.
    return json.loads(output[output.index("{\n") : output.rindex("}") + 1])


@pytest.mark.slow
def test_two_processes(tmp_path):
    statuses, outputs, errors = run_pair((2, 2), (tmp_path, tmp_path))
    assert statuses == [0, 0], errors
    result = read(outputs[0])
    # What the disk of this machine has left, or how fast it is, is worth a word at most.
    assert {check for check, grade in grades(result).items() if grade != "ok"} <= {"workdir"}
    assert result["grade"] != "impossible"
    assert re.search(r"a small file is written and read in [\d,.]+ ms", said(result, "workdir"))
    assert said(result, "devices") == "4 × cpu (cpu)"
    assert said(result, "processes") == "2 on 1 host"
    # Process 0 alone prints, and nothing is left behind.
    assert "{" not in outputs[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_with_workdirs_and_devices_of_their_own(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    statuses, outputs, errors = run_pair((1, 2), folders)
    assert statuses == [2, 2]
    result = read(outputs[0])
    assert {check for check, grade in grades(result).items() if grade == "impossible"} == {"workdir", "mesh"}
    assert "process 0 has 1, process 1 has 2 devices" in said(result, "mesh")
    assert "does not see what process" in said(result, "workdir")
    for error in errors:
        assert "error: training is impossible here" in error
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
