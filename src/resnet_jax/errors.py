"""The one exception that the command line turns into one line instead of a traceback, and lines that stop nothing."""

import sys


class InputError(ValueError):
    """Something the user gave is wrong. The message says what was given, what was expected, and what to do."""


def complain(line: str) -> None:
    """Prints a line to stderr about something wrong that a command goes on without."""
    print(line, file=sys.stderr)
