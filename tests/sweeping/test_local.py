import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import unavailable
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
def machine(tmp_path, monkeypatch):
    """Makes a machine on which packages are installed and nvidia-smi says something; gives a function for that."""
    for variable in ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(variable, raising=False)

    def make(said, plugin="xla_cuda12"):
        if plugin:
            described = tmp_path / "packages" / f"{plugin}-1.dist-info"
            described.mkdir(parents=True, exist_ok=True)
            (described / "METADATA").write_text(f"Name: {plugin}\nVersion: 1\n")
            (described / "entry_points.txt").write_text(f"[jax_plugins]\n{plugin} = jax_plugins.{plugin}\n")
        monkeypatch.syspath_prepend(tmp_path / "packages")
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncat <<'end'\n{said}end\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return make


def test_gpus_are_found(machine, monkeypatch):
    cases = [
        (SMI, {}, ["0", "1"]),
        (MIG, {}, ["MIG-1111", "MIG-2222"]),
        ("", {}, []),
        (SMI, {"CUDA_VISIBLE_DEVICES": "3,5"}, ["3", "5"]),
        (SMI, {"CUDA_VISIBLE_DEVICES": ""}, []),
        (SMI, {"CUDA_VISIBLE_DEVICES": "-1"}, []),
        (SMI, {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["1"]),
        (SMI, {"JAX_PLATFORMS": "cpu"}, []),
        (SMI, {"JAX_PLATFORMS": "cuda,cpu"}, ["0", "1"]),
    ]
    for said, variables, expected in cases:
        machine(said)
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            found = local.visible_devices()
        assert found == [{"CUDA_VISIBLE_DEVICES": name} for name in expected], (said, variables)


def test_gpus_that_jax_cannot_use_are_none(machine):
    plugins = [each.name for each in importlib.metadata.entry_points(group="jax_plugins")]
    if plugins:
        unavailable(f"JAX has the plugins {plugins} here")
    machine(SMI, plugin=None)
    assert local.visible_devices() == []


def test_tpu_chips_that_were_named(machine, tmp_path, monkeypatch):
    machine("", plugin=None)
    (tmp_path / "packages" / "libtpu").mkdir(parents=True)
    (tmp_path / "packages" / "libtpu" / "__init__.py").touch()
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,3")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert [each["TPU_VISIBLE_CHIPS"] for each in local.visible_devices()] == ["0", "3"]
    assert all(each["TPU_PROCESS_BOUNDS"] == "1,1,1" for each in local.visible_devices())


def test_each_job_has_its_own_device(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    first, second = {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}
    half = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    for devices, jobs, expected in (
        ([], None, [{}]),
        ([], 2, [{}, {}]),
        ([first], None, [{}]),
        ([first, second], 1, [{}]),
        ([first, second], None, [first, second]),
        ([first, second], 3, [first | half, second | half, first | half]),
    ):
        assert local.environments(devices, jobs) == expected, (devices, jobs)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.2")
    assert local.environments([first], 2) == [first, first]


@pytest.mark.slow
def test_the_next_job_gets_the_device_that_the_last_one_has_left(machine, tmp_path, monkeypatch):
    """Real processes, which read a config that says where they are and then waits until it may end."""
    machine(SMI)
    config = tmp_path / "config.py"
    config.write_text(
        "import os, pathlib, sys, time\n"
        "folder = pathlib.Path(os.environ['GATES'])\n"
        "print('device', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "while not (folder / os.environ['CUDA_VISIBLE_DEVICES']).exists():\n"
        "    time.sleep(0.02)\n"
        "sys.exit(9)\n"
    )
    monkeypatch.setenv("GATES", str(tmp_path))
    processes = local.LocalProcesses(None)
    assert processes.jobs == 2
    runs = [Run({"seed": str(i)}, tmp_path) for i in range(3)]
    for run in runs:
        run.log.parent.mkdir(parents=True, exist_ok=True)
    command = ["train", f"--config={config}"]
    try:
        processes.start([(run, command) for run in runs[:2]])
        wait_until(lambda: "device 0" in runs[0].log.read_text() and "device 1" in runs[1].log.read_text())
        assert processes.ended() == []
        (tmp_path / "1").touch()
        ended = []
        wait_until(lambda: ended.extend(processes.ended()) or ended)
        assert [(run.name, said) for run, said in ended] == [
            (runs[1].name, "it ended with exit status 9 and no result")
        ]
        processes.start([(runs[2], command)])
        wait_until(lambda: "device 1" in runs[2].log.read_text())
        assert processes.running == [runs[0], runs[2]]
    finally:
        (tmp_path / "0").touch()
        (tmp_path / "1").touch()
        wait_until(lambda: (processes.ended(), not processes.running)[1])


def test_exit_statuses_in_words():
    for status, message in (
        (STOPPED, "stopped by a signal after saving"),
        (-9, "SIGKILL, perhaps"),
        (-11, "SIGSEGV"),
        (1, "exit status 1"),
    ):
        assert message in local.describe_status(status)


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    log, config = tmp_path / "log.txt", tmp_path / "config.py"
    config.write_text("import time\nprint('reading', flush=True)\ntime.sleep(600)\n")
    program = (
        "import sys, time; from resnet_jax.sweeping.local import start_process\n"
        "process = start_process(['train', '--config=' + sys.argv[1]], open(sys.argv[2], 'ab'), {})\n"
        "print(process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(config), str(log)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    wait_until(lambda: "reading" in log.read_text())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: not alive(child))
    assert log.read_text() == f"$ resnet-jax train --config={config}\nreading\n"


def wait_until(true):
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid):
    """Whether a process is at work; one that has ended may wait for somebody to ask for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
