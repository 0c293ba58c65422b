"""A parent for a process that JAX may abort.

When another process of a run is lost, JAX's runtime ends this one from C++, with a stack trace and no way for Python to
say what happened. Its parent can.
"""

import ctypes
import os
import select
import signal
import sys
from types import FrameType

from resnet_jax.errors import LOST

# Where a child tells that it has found the other processes.
_to_parent: int | None = None


def joined() -> None:
    """Tells the parent, if this process has one, that the processes of the run are connected."""
    if _to_parent is not None:
        os.write(_to_parent, b".")


def supervise() -> None:
    """Returns in a child of this process. This one passes signals on, waits, and ends with the child's status.

    A child that aborts has lost another process of its run, or has never found it: that is said in one line, and the
    status is `errors.LOST`. Call it before threads are started.
    """
    global _to_parent
    parent = os.getpid()
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        _to_parent = to_parent
        # Ctrl-C comes through the parent, once.
        os.setpgid(0, 0)
        _end_with(parent)
        return

    def pass_on(signum: int, frame: FrameType | None) -> None:
        os.kill(child, signum)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGABRT:
        found = select.select([from_child], [], [], 0)[0]
        said = (
            "another process of this run was lost, as the lines above say: run the same command again on every host to "
            "go on from the last checkpoint"
            if found
            else "the processes of this run did not find each other in five minutes, as the lines above say: start all "
            "of them, with one --distributed=HOST:PORT that each of them can reach"
        )
        print(f"error: {said}", file=sys.stderr, flush=True)
        status = LOST
    os._exit(status if status >= 0 else 128 - status)


def _end_with(parent: int) -> None:
    """The kernel ends this process when its parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
