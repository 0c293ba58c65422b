"""Scalars for TensorBoard. This file alone knows tensorboardX."""

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import complain, optional


class Events:
    """Writes scalars to a folder of events. Where that fails it says so once and writes no more: no run waits for it.

    Args:
      folder: for the events, below one that exists.
      step: TensorBoard forgets those after it, which will be written again.
      say: is given a line about what went wrong.
    """

    def __init__(self, folder: Path, step: int, say: Callable[[str], None] = complain):
        self._folder, self._say = folder, say
        self._writer: Any = None
        with self._optional():
            # Its SummaryWriter writes from a thread, which would tell of a full disk with a traceback.
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

            folder.mkdir(exist_ok=True)
            writer = EventsWriter(str(folder.absolute() / "events"))
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
            self._writer = writer

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of one step."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with self._optional():
            from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboardX.summary import scalar

            for name, value in scalars.items():
                writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            writer.flush()
            self._writer = writer

    def close(self) -> None:
        """Writes what is left."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._optional():
                writer.close()

    def _optional(self) -> contextlib.AbstractContextManager[None]:
        return optional(f"the rest of {self._folder} for TensorBoard", self._say)


def import_without_torch() -> None:
    """Imports tensorboardX without PyTorch, which where there is one takes two seconds and is nothing to scalars.

    Meanwhile nothing in this process can import PyTorch, and its tensorboardX stays without it: for the command line.
    """
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        with contextlib.suppress(Exception):  # `Events` says what is wrong with it
            importlib.import_module("tensorboardX")
    finally:
        del sys.modules["torch"]
