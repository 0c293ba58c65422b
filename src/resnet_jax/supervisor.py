"""A parent for a process that JAX may abort.

When another process of a run is lost, JAX's runtime ends this one from C++, with a stack trace and no way for Python to
say what happened. Its parent can.
"""

import ctypes
import os
import signal
import sys
from types import FrameType

from resnet_jax.errors import LOST


def supervise() -> None:
    """Returns in a child of this process. This one passes signals on, waits, and ends with the child's status.

    A child that aborts has lost another process of its run: that is said in one line, and the status is `errors.LOST`.
    Call it before threads are started.
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
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
        print(
            "error: another process of this run was lost, as the lines above say: "
            "run the same command again on every host to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        status = LOST
    os._exit(status if status >= 0 else 128 - status)


def _end_with(parent: int) -> None:
    """The kernel ends this process when its parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
