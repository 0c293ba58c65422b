import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax import cli, doctor, sharding
from resnet_jax.benchmark import transfers
from resnet_jax.errors import InputError

SMALL = {"transfer_bytes": 2**16, "values": (16, 1000), "rounds": 2}


def grades(result):
    return {finding["check"]: finding["grade"] for finding in result["findings"]}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return doctor.examine(tmp_path_factory.mktemp("doctor") / "runs" / "new", **SMALL)


def test_result_is_json_and_complete(result):
    assert json.loads(json.dumps(result)) == result
    (process,) = result["processes"]
    assert (process["process"], process["host"], process["platform"]) == (0, socket.gethostname(), "cpu")
    assert (process["versions"]["jax"], process["versions"]["numpy"]) == (jax.__version__, np.__version__)
    assert all(process["versions"].values())
    assert process["memory_bytes"] > 2**28
    assert process["cores"] >= 1
    assert [device["kind"] for device in process["devices"]] == ["cpu"] * 8
    for device in process["devices"]:
        assert device["host_to_device"] > 0
        assert device["device_to_host"] > 0
    assert result["grade"] == max(grades(result).values(), key=doctor.GRADES.index)
    assert set(grades(result)) == {
        "versions",
        "devices",
        "platform",
        "processes",
        "cores",
        "workdir",
        "compilation cache",
        "transfers",
        "all-reduce",
    }
    for finding in result["findings"]:
        assert finding["says"]
        assert bool(finding["advice"]) == (finding["grade"] != "ok"), finding


def test_all_reduces_are_right_and_their_bandwidths_agree(result):
    assert [each["bytes"] for each in result["all_reduces"]] == [64, 4000]
    for each in result["all_reduces"]:
        assert each["right"]
        assert each["algorithm_bandwidth"] == pytest.approx(each["bytes"] / each["seconds"])
        # 2(n - 1)/n of 8 devices.
        assert each["bus_bandwidth"] == pytest.approx(1.75 * each["algorithm_bandwidth"])


def test_a_workdir_that_is_not_there_is_not_made(result):
    workdir = Path(result["workdir"]["path"])
    assert result["workdir"]["writable"]
    assert result["workdir"]["shared"]
    assert result["workdir"]["free_bytes"] > 0
    assert not workdir.parent.exists()
    assert list(workdir.parent.parent.iterdir()) == []


def test_the_program_is_one_all_reduce():
    program = transfers.compile_all_reduce(sharding.make_mesh(), 1000).as_text()
    collectives = re.findall(r"= \S+ (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(", program)
    assert collectives == ["all-reduce"]


def test_a_wrong_sum_is_found(monkeypatch):
    true = transfers.compile_all_reduce

    def wrong(mesh, count):
        add = true(mesh, count)
        # One value of one device is off by one.
        return lambda parts: add(parts.at[3, count - 1].add(1))

    monkeypatch.setattr(transfers, "compile_all_reduce", wrong)
    result = doctor.examine(**SMALL)
    assert [each["right"] for each in result["all_reduces"]] == [False, False]
    assert grades(result)["all-reduce"] == result["grade"] == "impossible"


@pytest.fixture
def three(result):
    """The descriptions of three processes on three hosts."""
    described = [json.loads(json.dumps(result["processes"][0])) for _ in range(3)]
    for i, each in enumerate(described):
        each.update(process=i, host=f"host{i}")
    return described


def test_versions_that_differ_make_training_impossible(three):
    three[2]["versions"].update(jax="0.1.2")
    (finding,) = [each for each in doctor.judge(three) if each.check == "versions"]
    assert finding.grade == "impossible"
    assert f"jax is {jax.__version__} in 2, 0.1.2 in 1" in finding.says


def test_unequal_devices_make_training_impossible(three, result):
    three[1]["devices"].pop()
    findings = doctor.judge(three)
    (finding,) = [each for each in findings if each.check == "devices"]
    assert finding.grade == "impossible"
    assert finding.says == "process 1 (host1) has 7, the others have 8 devices"
    # What could not be measured is left out of the table.
    for device in three[1]["devices"]:
        del device["host_to_device"], device["device_to_host"]
    unmeasured = {"processes": three, "findings": [each._asdict() for each in findings], "all_reduces": []}
    assert "host1" in doctor.render(result | unmeasured)


def test_what_a_pod_does_not_want_gets_attention(three, monkeypatch):
    for device in three[0]["devices"]:
        device["kind"] = "TPU v4"
    three[1]["accelerator"] = "cuda"
    three[2].update(platform="tpu", cores=16, compilation_cache=None)
    # Without it, several processes have a cache in the workdir.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    findings = doctor.judge(three)
    wanted = {each.check for each in findings if each.grade == "attention"}
    assert wanted == {"devices", "platform", "cores", "workdir", "compilation cache"}
    advice = " ".join(finding.advice for finding in findings)
    assert ".[cuda]" in advice
    assert "--workdir=DIR" in advice


def test_a_process_that_should_not_be_alone(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    (finding,) = [each for each in doctor.examine(**SMALL)["findings"] if each["check"] == "processes"]
    assert finding["grade"] == "attention"
    assert "--distributed=slurm" in finding["advice"]


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "s3://bucket"])
def test_a_bucket_is_no_workdir(workdir, capsys):
    assert cli.main(["doctor", f"--workdir={workdir}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is no folder" in error


def test_rounds_must_be():
    with pytest.raises(InputError, match="at least 1"):
        doctor.examine(rounds=0)


def test_a_workdir_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert cli.main(["doctor", f"--workdir={tmp_path / 'file'}", "--format=json"]) == 2
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert not result["workdir"]["writable"]
    assert result["all_reduces"] == []
    assert captured.err.startswith("error: training is impossible here; workdir: ")
    assert captured.err.count("\n") == 1


def test_the_table_says_everything(result):
    text = doctor.render(result)
    for word in ("fake devices", "8 × cpu", socket.gethostname(), "1,000", "right", f"jax {jax.__version__}"):
        assert word in text
    for finding in result["findings"]:
        assert f"{finding['check']}: {finding['says']}" in text


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(port, process, count, devices, workdir):
    where = [f"--distributed=localhost:{port}", f"--num_processes={count}", f"--process_id={process}"]
    command = [sys.executable, "-m", "resnet_jax.cli", "doctor", *where, f"--workdir={workdir}", "--format=json"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    assert [each["process"] for each in result["processes"]] == [0, 1]
    for process in result["processes"]:
        assert all(device["host_to_device"] > 0 for device in process["devices"])
        assert len(process["devices"]) == 2
    assert [each["right"] for each in result["all_reduces"]] == [True, True]
    assert result["all_reduces"][0]["bus_bandwidth"] == pytest.approx(
        1.5 * result["all_reduces"][0]["algorithm_bandwidth"]
    )
    assert (result["workdir"]["shared"], result["grade"]) == (True, "ok")
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
    assert (result["workdir"]["writable"], result["workdir"]["shared"]) == (True, False)
    assert {check for check, grade in grades(result).items() if grade == "impossible"} == {"workdir", "devices"}
    assert "does not see what process 0 writes" in errors[0]
    for error in errors:
        assert "error: training is impossible here" in error
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
