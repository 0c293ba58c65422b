"""What one process says when others are silent; tests of several processes are in training/test_processes.py."""

import re
import types

import jax
import pytest

from resnet_jax.cli import commands
from resnet_jax.cli.main import main
from resnet_jax.distributed import agreement
from resnet_jax.distributed.launch import processes
from resnet_jax.errors import InputError, PeerLostError
from resnet_jax.storage.objects import failure


class Silent:
    """The key-value store of a run whose other processes say nothing."""

    def __init__(self):
        self.said = {}

    def key_value_set(self, key, value):
        self.said[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        # Longer than Orbax waits for a process that has given a checkpoint up.
        assert milliseconds > 1000 * 300
        if key not in self.said:
            raise jax.errors.JaxRuntimeError(
                f"DEADLINE_EXCEEDED: GetKeyValue() timed out with key: {key} and duration: {milliseconds}ms "
                "[type.googleapis.com/tensorflow.CoordinationServiceError='']"
            )
        return self.said[key]


def test_a_silent_process_is_a_lost_one(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "global_state", types.SimpleNamespace(client=Silent()))
    with pytest.raises(PeerLostError, match="process 1 does not answer: see what it wrote"):
        agreement.exchange({"own": 1})
    # The next start may find it: launch files retry this status.

    def silent(arguments):
        with processes(None):
            agreement.exchange(None)

    monkeypatch.setitem(commands.COMMANDS, "train", silent)
    assert main(["train"]) == 76
    assert "process 1 does not answer: see what it wrote" in capsys.readouterr().err


def test_processes_that_are_not_connected(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="there are 2 processes, which are not connected: give --distributed"):
        agreement.exchange(None)


def test_what_is_refused_anywhere_is_refused_everywhere(monkeypatch):
    def refuse():
        raise InputError("no")

    assert agreement.together(lambda: 3) == 3
    for act, others, message in (
        (refuse, [], "no"),
        (refuse, ["no"], "no"),
        (refuse, [None], "process 0: no"),
        (lambda: 3, [None, "yes?"], "process 2: yes?"),
    ):
        monkeypatch.setattr(agreement, "exchange", lambda own, others=others: [own, *others])
        with pytest.raises(InputError) as error:
            agreement.together(act)
        assert str(error.value) == message


def test_files_that_do_not_appear_are_unseen(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "SEEN_WITHIN", 0.0)
    (tmp_path / "one").write_text("")
    assert agreement._unseen({0: tmp_path / "one", 2: tmp_path / "two"}) == [2]


# What JAX's collectives and Orbax's barriers said in runs whose other process had been killed.
SAID = [
    "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:17588: "
    "Connection reset by peer",
    "DEADLINE_EXCEEDED: Barrier timed out. Id: save_20. A task triggered it early",
    "UNAVAILABLE: The coordination service has lost the heartbeat of task 1",
]


def wrapped(text):
    """As where a library was saving."""
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError("the save failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("said", SAID)
def test_a_lost_process_is_told_from_a_storage_that_fails(said):
    error = wrapped(said)
    assert failure("gs://bucket/run", error) is None
    with pytest.raises(PeerLostError, match=re.escape(said)), processes(None):
        raise error
    of_storage = wrapped("UNAVAILABLE: Read error [127.0.0.1]:443: Connection reset by peer")
    assert "does not answer as it should" in str(failure("gs://bucket/run", of_storage))
    with pytest.raises(RuntimeError, match="the save failed"), processes(None):
        raise of_storage


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/data/Gloom/1.jpg"),
        PermissionError(13, "Permission denied", "/runs/NCCL-tests/metrics.jsonl"),
        KeyError("Gloo"),
        ValueError("gs://bucket/NCCL/run is no folder"),
        InputError("there is no folder NCCL"),
        PeerLostError("process 1 does not answer: see what it wrote"),
    ],
)
def test_what_is_no_lost_process_stays_what_it_is(error):
    error.__cause__ = OSError(5, "Gloo")
    with pytest.raises(type(error)) as raised, processes(None):
        raise error
    assert raised.value is error
