"""The lock of a folder in a bucket."""

import contextlib
import json
import subprocess
import sys
import threading
import time

import pytest

from resnet_jax.errors import InputError
from resnet_jax.files import expanded, locked
from resnet_jax.storage import lease

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.4)
    monkeypatch.setattr(lease, "LEASE", 4.0)


@pytest.fixture
def lock(place):
    return expanded(place, remote=True) / "lock"


def numbers(lock):
    return sorted(int(each.name) for each in lock.iterdir())


def test_a_second_writer_is_refused_and_a_third_one_comes_after_the_end(lock):
    with locked(lock, "taken") as check:
        check()
        began = time.monotonic()
        with pytest.raises(InputError, match=r"^taken$"), locked(lock, "taken"):
            pass
        assert time.monotonic() - began < 3  # on the same machine at once
        check()
    with locked(lock, "taken"):
        assert numbers(lock) == [2]


def test_of_a_process_of_this_machine_that_is_gone_it_is_taken_at_once(lock, servers):
    code = "import os; from resnet_jax.files import *; locked(expanded({!r}, remote=True), '').__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code.format(str(lock))], check=False).returncode == 9
    assert numbers(lock) == [1]
    with locked(lock, "taken"):
        assert numbers(lock) == [2]


def from_elsewhere(lock, **fields):
    (lock / "1").write_bytes(json.dumps({"pid": 7, "host": "other", "machine": "other", **fields}).encode())


def test_of_a_process_elsewhere_it_is_taken_when_that_gives_no_sign_of_life(lock, capsys):
    from_elsewhere(lock)
    began = time.monotonic()
    with locked(lock, "taken") as check:
        assert time.monotonic() - began >= lease.LEASE
        assert numbers(lock) == [2]
        check()
    assert "locked by process 7 of other: waiting up to 4 s" in capsys.readouterr().err


def test_a_process_elsewhere_that_lives_keeps_it(lock):
    ended = threading.Event()

    def live():
        beat = 0
        while not ended.wait(0.3):
            beat += 1
            from_elsewhere(lock, beat=beat)

    from_elsewhere(lock)
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    with pytest.raises(InputError, match=r"^taken$"), locked(lock, "taken"):
        pass
    ended.set()
    thread.join()
    assert numbers(lock) == [1]


def test_who_has_lost_it_learns_so(lock):
    with locked(lock, "taken") as check:
        (lock / "2").write_bytes(b"{}")
        with pytest.raises(InputError, match=r"has lost .*: taken"):
            check()


def test_one_alone_takes_it_over(lock):
    from_elsewhere(lock, released=True)
    begin, took = threading.Barrier(6), []

    def take():
        begin.wait()
        with contextlib.suppress(InputError):
            took.append(lease._take(lock, "taken"))

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.name for each in took] == ["2"]
    assert numbers(lock) == [2]
