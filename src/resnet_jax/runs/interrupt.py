"""Signals between two steps instead of anywhere: a save that is cut off in its middle can wait for itself forever."""

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interruptible:
    """While it is entered, Ctrl-C and SIGTERM only ask for a stop; a second signal ends the process at once.

    Of several processes one that is asked is enough: JAX spreads the notice, and all of them stop at the same step.
    `requested` is whether `reached` has said that it is time to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked = False
        self._steps = 0
        self._together = jax.distributed.is_initialized()

    def __enter__(self) -> "Interruptible":
        # Where there are several processes, SIGTERM is JAX's; and only the main thread may change what a signal does.
        numbers = (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM)
        main = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in numbers if main}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self) -> bool:
        """Whether to stop here; all processes must ask at every place where they could."""
        self._steps += 1
        stop = multihost_utils.reached_preemption_sync_point(self._steps) if self._together else self._asked
        self.requested |= stop
        return self.requested

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(128 + signum)
        self._asked = True
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)
