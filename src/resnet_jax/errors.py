"""The one exception that the command line turns into one line instead of a traceback."""


class InputError(ValueError):
    """Something the user gave is wrong. The message says what was given, what was expected, and what to do."""
