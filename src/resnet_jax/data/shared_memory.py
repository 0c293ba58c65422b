"""Room for batches in shared memory, where worker processes put them: 64 MiB in a container that nobody gave more."""

import os
import re
import signal

from resnet_jax.errors import InputError

FOLDER = "/dev/shm"

# Batches at a time, measured with Grain 0.2.18: of each worker two read ahead, one that waits to be handed over and one
# in the queue; of the process that they decode for one that it reads and one that is about to be removed.
_OF_A_WORKER, _OF_THEIR_READER = 4, 2

_ADVICE = "give it more (docker run --shm-size={}; in Kubernetes an emptyDir of medium Memory that is mounted there)"


def free_bytes() -> int | None:
    """What is free of the shared memory, or None where it is no file system."""
    try:
        status = os.statvfs(FOLDER)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def check_room(batch_bytes: int, num_workers: int) -> None:
    """Refuses workers whose batches, each of so many bytes on this host, have no room: the kernel would kill one of
    them, at every start again. The InputError says how many have room.
    """
    needed, free = batch_bytes * (_OF_A_WORKER * num_workers + _OF_THEIR_READER), free_bytes()
    if not num_workers or free is None or needed <= free:
        return
    fit = max(free // batch_bytes - _OF_THEIR_READER, 0) // _OF_A_WORKER
    fewer = f"num_workers={fit}, for which there is room, or " if fit else ""
    raise InputError(
        f"{FOLDER} has {free / 2**20:,.0f} MiB free, but {num_workers} workers keep up to {needed / 2**20:,.0f} MiB of "
        f"batches there: {_ADVICE.format(f'{-(-needed // 2**20)}m')}, or use {fewer}num_workers=0, which "
        "decodes in threads"
    )


def ran_out(death: str) -> str | None:
    """A line for the user where the kernel killed a worker for want of shared memory, as Grain tells of its death."""
    code = re.search(r"exit code (-?\d+)", death)
    if code is None or int(code[1]) != -signal.SIGBUS:
        return None
    return (
        f"a worker that decoded images found no room in {FOLDER}, or a file of a cache ended under it: "
        f"{_ADVICE.format('1g')}, or use fewer num_workers, or 0, which decodes in threads"
    )
