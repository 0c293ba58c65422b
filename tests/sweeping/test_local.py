import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from resnet_jax.errors import STOPPED
from resnet_jax.sweeping import local
from resnet_jax.sweeping.runs import Run

SMI = """GPU 0: NVIDIA H100 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 (UUID: GPU-bbbb)
"""
MIG = """GPU 0: NVIDIA H100 (UUID: GPU-aaaa)
  MIG 1g.10gb     Device  0: (UUID: MIG-1111)
  MIG 1g.10gb     Device  1: (UUID: MIG-2222)
"""


@pytest.fixture
def gpu_machine(monkeypatch, tmp_path):
    """Gives a machine with JAX's CUDA plugin whose nvidia-smi says something."""

    def make(said):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'end'\n{said}end\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(
            local.importlib.metadata, "entry_points", lambda group: [SimpleNamespace(name="xla_cuda12")]
        )
        monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None)
        for variable in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
            monkeypatch.delenv(variable, raising=False)

    return make


@pytest.mark.parametrize(
    ("said", "variables", "expected"),
    [
        (SMI, {}, ["0", "1"]),
        (MIG, {}, ["MIG-1111", "MIG-2222"]),
        ("", {}, []),
        (SMI, {"CUDA_VISIBLE_DEVICES": "3,5"}, ["3", "5"]),
        (SMI, {"CUDA_VISIBLE_DEVICES": ""}, []),
        (SMI, {"CUDA_VISIBLE_DEVICES": "-1"}, []),
        (SMI, {"JAX_PLATFORMS": "cpu"}, []),
        (SMI, {"JAX_PLATFORMS": "cuda,cpu"}, ["0", "1"]),
    ],
)
def test_gpus_are_found(said, variables, expected, gpu_machine, monkeypatch):
    gpu_machine(said)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert local.visible_devices() == [{"CUDA_VISIBLE_DEVICES": name} for name in expected]


def test_gpus_that_jax_cannot_use_are_none(gpu_machine, monkeypatch):
    gpu_machine(SMI)
    monkeypatch.setattr(local.importlib.metadata, "entry_points", lambda group: [])
    assert local.visible_devices() == []


def test_tpu_chips_are_found(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(local.importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(
        local.glob, "glob", lambda pattern: ["/dev/accel0", "/dev/accel1"] if "accel" in pattern else []
    )
    assert [each["TPU_VISIBLE_CHIPS"] for each in local.visible_devices()] == ["0", "1"]
    assert all(each["TPU_PROCESS_BOUNDS"] == "1,1,1" for each in local.visible_devices())


@pytest.mark.parametrize(
    ("devices", "jobs", "expected"),
    [
        ([], None, [{}]),
        ([], 2, [{}, {}]),
        (["0"], None, [{}]),
        (["0", "1"], 1, [{}]),
        (["0", "1"], None, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (
            ["0", "1"],
            3,
            [{"CUDA_VISIBLE_DEVICES": i, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"} for i in ("0", "1", "0")],
        ),
    ],
)
def test_each_job_has_its_own_device(devices, jobs, expected, monkeypatch, tmp_path):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setattr(local, "visible_devices", lambda: [{"CUDA_VISIBLE_DEVICES": name} for name in devices])
    started, statuses = [], []

    def start(command, log, environment):
        started.append(environment)
        return SimpleNamespace(poll=functools.partial(statuses.__getitem__, len(started) - 1), stdin=None)

    monkeypatch.setattr(local, "start_process", start)
    processes = local.LocalProcesses(jobs)
    assert processes.jobs == len(expected)
    runs = [Run({"seed": str(i)}, tmp_path, 1) for i in range(len(expected) + 1)]
    statuses += [None] * len(expected)
    processes.start([(run, []) for run in runs[:-1]])
    assert started == expected
    assert processes.ended() == []
    # The next one gets the device that the last one has left.
    statuses[-1] = 2
    assert [(run.name, said) for run, said in processes.ended()] == [
        (runs[-2].name, "it ended with exit status 2 and no result")
    ]
    statuses.append(None)
    processes.start([(runs[-1], [])])
    assert started[-1] == expected[-1]


@pytest.mark.parametrize(
    ("status", "message"),
    [(STOPPED, "stopped by a signal after saving"), (-9, "SIGKILL, perhaps"), (-11, "SIGSEGV"), (1, "exit status 1")],
)
def test_exit_statuses_in_words(status, message):
    assert message in local.describe_status(status)


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    log, config = tmp_path / "log.txt", tmp_path / "config.py"
    config.write_text("import time\nprint('reading', flush=True)\ntime.sleep(600)\n")
    program = (
        "import pathlib, sys, time; from resnet_jax.sweeping.local import start_process\n"
        "process = start_process(['train', '--config=' + sys.argv[1]], pathlib.Path(sys.argv[2]), {})\n"
        "print(process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(config), str(log)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while "reading" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 60
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert log.read_text() == f"$ resnet-jax train --config={config}\nreading\n"


def alive(pid):
    """Whether a process is at work; one that has ended may wait for somebody to ask for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
