"""Ctrl-C between two dispatches instead of anywhere: a save that is cut off in its middle can wait for itself
forever.
"""

import os
import signal
import threading
from types import FrameType


class Interruptible:
    """While it is entered, the first Ctrl-C only sets `requested`; the second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interruptible":
        # Python lets only the main thread change what a signal does.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(130)
        self.requested = True
