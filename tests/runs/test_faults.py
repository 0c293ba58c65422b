"""What goes wrong around a run: signals, damaged images, file systems and lost processes; what may change meanwhile."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys

import jax
import members
import numpy as np
import pytest
from jax.experimental import multihost_utils
from members import STREAMED, photograph_config
from orbax.checkpoint import v1 as ocp

from resnet_jax.cli.main import main
from resnet_jax.data import sequential, small
from resnet_jax.errors import DivergedError, InputError, Preempted
from resnet_jax.runs import checkpoints, loop, workdir
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.runs.loop import train
from small_run import (
    FIELDS,
    everything_saved,
    lines_of,
    result_of,
    saved_steps,
    small_config,
    train_until,
    with_program,
)

# Of a data set whose labels are 0 to 9: its cross-entropy is no number, as where labels begin at 1.
WRONG_LABEL = 10


def test_a_signal_while_the_first_program_is_compiled_is_a_stop(tmp_path):
    def interrupted(program):
        asked = []

        def steps(count):
            if not asked:  # a second signal would end the process at once
                os.kill(os.getpid(), signal.SIGTERM)
            asked.append(count)
            return program.steps(count)

        return program._replace(steps=steps)

    with pytest.raises(Preempted, match="the state of iteration 10 is saved"):
        train(small_config(), tmp_path, open_input=with_program(interrupted))
    assert saved_steps(tmp_path) == [10]


def test_images_that_turn_out_to_be_damaged_leave_no_workdir(folder, tmp_path):
    photographs = shutil.copytree(folder, tmp_path / "photographs")
    members.spoil(photographs, *range(100))
    with pytest.raises(InputError, match="all of 3 images are damaged"):
        train(
            photograph_config(photographs, {"stream.normalization": "mean_image", "stream.mean_images": 3}),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_in_the_middle_of_a_validation_waits_for_nothing(folder, tmp_path, monkeypatch):
    """30 photographs in three batches; the signal comes at the second one."""
    config = photograph_config(folder, STREAMED | {"train.iterations": 8, "train.eval_every": 4})
    train(config, tmp_path / "whole")
    central_batches, seen = sequential.central_batches, []

    def batches(*arguments):
        for batch in central_batches(*arguments):
            seen.append(batch)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(sequential, "central_batches", batches)
    with pytest.raises(Preempted, match="the state of iteration 4 is saved"):
        train(config, tmp_path / "run")
    assert len(seen) == 2
    assert saved_steps(tmp_path / "run") == [4]
    (line,) = lines_of(tmp_path / "run")
    assert "train_loss" in line
    assert "validation_loss" not in line
    # It is scored before anything else.
    train(config, tmp_path / "run")
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    assert [line["step"] for line in lines_of(tmp_path / "run") if "validation_loss" in line] == [4, 8]
    assert result_of(tmp_path / "run") == result_of(tmp_path / "whole")


def test_a_validation_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    load = small.load

    def poisoned_load(*arguments):
        dataset = load(*arguments)
        labels = np.full_like(dataset.test.labels, WRONG_LABEL)
        return dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, labels=labels))

    monkeypatch.setattr(small, "load", poisoned_load)
    with pytest.raises(DivergedError) as error:
        train(small_config({"train.checkpoint_every": 10}), tmp_path)
    assert str(error.value) == (
        "the loss on the test images is nan after iteration 20; the checkpoint of iteration 10 is whole. A lower "
        "config.optimizer.learning_rate or a warm-up may help, in another workdir"
    )


def test_a_file_system_that_fails_for_the_moment_is_no_damage(tmp_path, monkeypatch, capsys):
    train_until(20, small_config(), tmp_path)
    read = Checkpoints._read
    arguments = ["train", "--config=digits", f"--workdir={tmp_path}"]
    arguments += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    for number in (errno.EIO, errno.ESTALE):

        def fail(checkpoints, step, parts, number=number):
            if step == 20:
                raise OSError(number, os.strerror(number))
            return read(checkpoints, step, parts)

        monkeypatch.setattr(Checkpoints, "_read", fail)
        assert main(arguments) == 76
        said = capsys.readouterr()
        assert "passed over" not in said.out
        assert said.err.endswith(f"{os.strerror(number)}: run the same command again to go on\n")


@pytest.mark.parametrize(
    ("number", "runs"), [(errno.ENOLCK, True), (errno.ENOSYS, True), (errno.EOPNOTSUPP, True), (errno.EPERM, False)]
)
def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys, number, runs):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    if runs:
        with Checkpoints(tmp_path, write=True):
            assert "cannot be locked" in capsys.readouterr().err
    else:
        with pytest.raises(PermissionError):
            Checkpoints(tmp_path, write=True)


# As JAX's threads do, while Python waits in C++ for what never comes.
ABORT = """
import ctypes, sys, threading, time
import jax
from resnet_jax.distributed import launch

def abort(*given, **named):
    threading.Thread(target=ctypes.CDLL(None).abort).start()
    time.sleep(60)

if "found" not in sys.argv:
    jax.distributed.initialize = abort
with launch.processes("localhost:{port}", 1, 0):
    abort()
"""


@pytest.mark.parametrize("found", [True, False])
def test_what_is_said_of_a_process_that_jax_ended(found):
    code = ABORT.format(port=members.free_port())
    command = [sys.executable, "-c", code, *["found"] * found]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 76
    assert ended.stderr.count("\n") == 1
    assert ("was lost" in ended.stderr, "did not find each other" in ended.stderr) == (found, not found)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        pytest.param({"train.keep_last": 1}, [60], marks=pytest.mark.slow),
        ({"train.keep_last": 2, "train.keep_every": 20}, [20, 40, 50, 60]),
        pytest.param({"train.keep_last": 6}, [10, 20, 30, 40, 50, 60], marks=pytest.mark.slow),
    ],
)
def test_which_checkpoints_are_kept(tmp_path, monkeypatch, fields, kept):
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    train(small_config({"train.checkpoint_every": 10, "train.eval_every": 60} | fields), tmp_path)
    assert saved_steps(tmp_path) == kept
    # JAX remembers the number that it was last asked with: Orbax must not ask with numbers of its own.
    assert asked == []


def test_a_save_is_left_out_while_the_one_before_is_on_its_way_to_a_bucket(tmp_path, monkeypatch):
    busy = iter([True, False, True, True])  # at 20, 30, 50 and 60: before the first one nothing is asked
    monkeypatch.setattr(checkpoints, "is_remote", lambda path: True)
    monkeypatch.setattr(ocp.training.Checkpointer, "is_saving_in_progress", lambda self: next(busy))
    kept = {"train.keep_last": 6, "train.keep_every": 40}  # which the fortieth is, and the last one is made, too
    train(small_config({"train.checkpoint_every": 10, "train.eval_every": 60} | kept), tmp_path)
    assert saved_steps(tmp_path) == [10, 30, 40, 60]
    assert list(busy) == []


@pytest.mark.slow
def test_what_may_change_between_two_starts(tmp_path, capsys):
    train_until(30, small_config({"train.checkpoint_every": 10}), tmp_path)
    assert saved_steps(tmp_path) == [10, 20, 30]
    before = everything_saved(tmp_path)
    changed = {
        "model.remat": True,
        "mesh.data": 2,
        "mesh.fsdp": 2,
        "train.max_skipped_steps": 2,
        "train.checkpoint_every": 10,
    }
    changed |= {"train.keep_last": 2, "train.keep_every": 30}
    with pytest.raises(
        InputError, match=r"which differs in train.grad_accum_steps \(1 there, 2 asked for\): use another"
    ):
        train(small_config(changed | {"train.grad_accum_steps": 2}), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, everything_saved(tmp_path), before)
    capsys.readouterr()
    train(small_config(changed), tmp_path)
    assert "going on from the checkpoint of iteration 30" in capsys.readouterr().out
    assert saved_steps(tmp_path) == [30, 50, 60]
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 20, 30, 40, 50, 60]
    # The run remains the one that was begun.
    assert workdir.read_config(tmp_path).model.remat is False
    assert loop.train(small_config(), tmp_path).result["step"] == 60
