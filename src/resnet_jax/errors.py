"""What the command line turns into one line and an exit status, instead of a traceback; and lines that stop nothing."""

import errno
import sys


class InputError(ValueError):
    """Something the user gave is wrong. The message says what was given, what was expected, and what to do."""


class Stopped(KeyboardInterrupt):
    """A signal ended a run, whose state is saved: the same command goes on."""


class LostError(RuntimeError):
    """Another process of the run is gone; the message says how this one noticed."""


# A server or a cable that may be back at the next start.
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN)


def is_passing(error: BaseException | None) -> bool:
    """Whether a file system failed in a way that another start may find mended."""
    return isinstance(error, OSError) and error.errno in _PASSING


# Exit statuses. Those of a run that should be started again are not those of one that would only fail again.
WRONG, STOPPED, LOST = 2, 75, 76


def complain(line: str) -> None:
    """Prints a line to stderr about something wrong that a command goes on without."""
    print(line, file=sys.stderr)
