"""Runs that are killed at any moment, or whose checkpoints are damaged, end as if nothing had happened."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.runs.loop import train
from resnet_jax.training.state import abstract_state
from small_run import FIELDS, assert_same_run, everything_saved, lines_of, parts, saved_steps, small_config

# Reading a damaged checkpoint leaves Orbax's other reads without anybody to wait for them.
unawaited = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)

ITERATIONS = 100
LONG = FIELDS | {"train.iterations": ITERATIONS}


def start(directory):
    overrides = [f"--config.{field}={value}" for field, value in LONG.items()]
    command = [
        sys.executable,
        "-m",
        "resnet_jax.cli.main",
        "train",
        "--config=digits",
        *overrides,
        f"--workdir={directory}",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(process, happened):
    """Stops the process as soon as `happened`, makes sure that it still holds then, and kills it."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the run ended before it could be killed:\n{process.stdout.read()}"
        if happened():
            os.kill(process.pid, signal.SIGSTOP)
            if happened():
                process.kill()
                process.communicate()
                return
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.001)
    process.kill()
    pytest.fail("the moment to kill the run never came")


def reached(directory):
    """The last iteration in metrics.jsonl, also where its last line is not complete."""
    path = directory / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines(True)[:-1]] if path.exists() else []
    return max(steps, default=0)


def is_saving(directory):
    """Whether a checkpoint is on its way to the disk."""
    return any("tmp" in path.name for path in (directory / "checkpoints").glob("*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run in its own process that nothing stopped."""
    directory = tmp_path_factory.mktemp("resume") / "run"
    process = start(directory)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert [line["step"] for line in lines_of(directory)] == list(range(10, ITERATIONS + 1, 10))
    return directory


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_the_same(uninterrupted, tmp_path):
    directory = tmp_path / "run"
    kill_when(start(directory), lambda: reached(directory) >= 10)
    kill_when(start(directory), lambda: reached(directory) >= 30 and saved_steps(directory) and is_saving(directory))
    assert is_saving(directory)
    assert not (directory / "result.json").exists()

    process = start(directory)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "going on from the checkpoint of iteration " in output
    assert "passed over" not in output
    assert [line["step"] for line in lines_of(directory)] == list(range(10, ITERATIONS + 1, 10))
    assert saved_steps(directory) == saved_steps(uninterrupted)
    assert not is_saving(directory)
    assert_same_run(directory, uninterrupted)


def truncate(checkpoint):
    for path in sorted(checkpoint.rglob("*"), key=lambda path: path.stat().st_size)[-3:]:
        os.truncate(path, path.stat().st_size // 2)


def garble(checkpoint):
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))


def remove_largest_file(checkpoint):
    max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size).unlink()


def remove_metadata(checkpoint):
    """Of the network."""
    for path in (checkpoint / "variables").rglob("*"):
        if path.is_file() and "METADATA" in path.name.upper():
            path.unlink()


def flip_one_byte(checkpoint):
    """In the middle of the largest file, which holds arrays: nothing of Orbax notices."""
    largest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.fixture
def killed(finished, tmp_path):
    """The same run, killed at iteration 50."""
    directory = shutil.copytree(finished[0], tmp_path / "run")
    (directory / "result.json").unlink()
    shutil.rmtree(directory / "checkpoints" / "60")
    lines = (directory / "metrics.jsonl").read_text().splitlines(True)
    (directory / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    yield directory
    gc.collect()


@pytest.fixture(scope="module")
def abstract():
    """What the state of these runs looks like."""
    images, task, _ = parts(small_config())
    shapes = abstract_state(task.model, task.optimizer, images.metadata.image_shape, make_mesh(1))
    return lambda metadata: shapes


@unawaited
@pytest.mark.parametrize(
    "damage",
    [
        flip_one_byte,
        remove_metadata,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (truncate, garble, remove_largest_file, empty)),
    ],
)
def test_a_damaged_checkpoint_is_recognised(killed, abstract, damage):
    damage(killed / "checkpoints" / "40")
    said = []
    with Checkpoints(killed, write=False) as checkpoints:
        restored = checkpoints.restore(abstract, said.append)
    assert int(restored.state.step) == 20
    (line,) = said
    assert line.startswith("checkpoint 40 is damaged and passed over: ")
    gc.collect()


@unawaited
def test_a_damaged_checkpoint_is_passed_over_and_replaced(finished, killed, tmp_path, capfd):
    garble(killed / "checkpoints" / "40")
    train(small_config(), killed)
    output = capfd.readouterr().out.splitlines()
    assert sum("checkpoint 40 is damaged and passed over" in line for line in output) == 1
    assert any("going on from the checkpoint of iteration 20" in line for line in output)
    assert saved_steps(killed) == [20, 40, 60]
    assert_same_run(killed, finished[0])
    gc.collect()

    # The damaged one was replaced.
    other = shutil.copytree(finished[0], tmp_path / "other")
    for run in (killed, other):
        shutil.rmtree(run / "checkpoints" / "60")
    jax.tree.map(np.testing.assert_array_equal, everything_saved(killed), everything_saved(other))


@unawaited
def test_where_no_checkpoint_can_be_read_nothing_is_deleted(killed, capfd):
    for step in (20, 40):
        truncate(killed / "checkpoints" / str(step))
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"no checkpoint in .*checkpoints can be read"):
        train(small_config(), killed)
    output = capfd.readouterr().out
    for step in (20, 40):
        assert f"checkpoint {step} is damaged and passed over" in output
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before
