"""The lock of a folder in a bucket, where nobody notices that the process that holds it has died."""

import contextlib
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, warn
from resnet_jax.storage.objects import StoredPath

# Seconds between two signs of life of who holds a lock, and without one until another process may take it.
BEAT, LEASE = 20.0, 120.0


@contextlib.contextmanager
def held(folder: StoredPath, refusal: str) -> Iterator[Callable[[], None]]:
    """Holds the lock of which the folder keeps the record, until the block ends; an InputError with `refusal` where
    another process holds it, which shows within LEASE seconds. Gives a check, which raises where the lock is lost.

    Who takes the lock makes the object of the next number, which the server allows only one. So a lock is taken over
    from a dead process by one alone, and no clocks are compared: a process is dead when it gives no sign of life while
    another one watches, or, on the same machine, when it is gone.
    """
    own = _take(folder, refusal)
    ended, beats = threading.Event(), itertools.count(1)

    def renew() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(Exception):  # the next one may come through
                own.write_bytes(_state(beat=next(beats)))

    def check() -> None:
        if max(_numbers(folder), default=0) != int(own.name):
            raise InputError(f"this process has lost {folder.parent}, for it gave no sign of life for long: {refusal}")

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join(BEAT)
        with contextlib.suppress(Exception):  # after LEASE seconds nobody asks
            own.write_bytes(_state(released=True))


def _take(folder: StoredPath, refusal: str) -> StoredPath:
    token = uuid.uuid4().hex
    while True:
        numbers = _numbers(folder)
        last = max(numbers, default=0)
        if last:
            _wait_for_end(folder / str(last), refusal)
        own = folder / str(last + 1)
        try:
            own.write_bytes(_state(token=token), new=True)
        except FileExistsError:
            # A client that got no answer has asked again, and it is its own that was there.
            if (_read(own) or {}).get("token") != token:
                time.sleep(0.2)
                continue
        # Others may have come and gone since the folder was read, and have cleared this number away.
        if max(_numbers(folder)) > last + 1:
            own.unlink(missing_ok=True)
            continue
        for number in numbers:
            (folder / str(number)).unlink(missing_ok=True)
        return own


def _wait_for_end(path: StoredPath, refusal: str) -> None:
    """Returns when nobody holds the lock; raises where somebody does."""
    seen = _read(path)
    if seen is None or seen.get("released"):
        return
    machine, started = _machine(), seen.get("started")
    if machine and seen.get("machine") == machine:
        if _started(seen["pid"]) == started:
            raise InputError(refusal)
        return
    warn(
        f"{path.parent.parent} is locked by process {seen.get('pid')} of {seen.get('host')}: waiting up to "
        f"{LEASE:.0f} s to see whether it is alive"
    )
    deadline = time.monotonic() + LEASE
    while time.monotonic() < deadline:
        time.sleep(min(2.0, BEAT / 4))
        now = _read(path)
        if now is None or now.get("released"):
            return
        if now != seen:
            raise InputError(refusal)


def _numbers(folder: StoredPath) -> list[int]:
    try:
        return [int(each.name) for each in folder.iterdir() if each.name.isdecimal()]
    except FileNotFoundError:
        return []


def _read(path: StoredPath) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _state(**fields: Any) -> bytes:
    pid = os.getpid()
    own = {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "started": _started(pid)}
    return json.dumps({**own, **fields}).encode()


def _machine() -> str:
    """What tells this machine, since it started, and its numbers of processes from all others; "" where nothing does.
    The name of a host that takes the place of a lost one can be the same.
    """
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When a process started, for its number may be another's later; "" where there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
