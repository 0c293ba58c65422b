"""What the command line turns into one line and an exit status, instead of a traceback; and lines that stop nothing."""

import contextlib
import dataclasses
import difflib
import errno
import numbers
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

__all__ = [
    "LOST",
    "STOPPED",
    "WRONG",
    "DiskFullError",
    "DivergedError",
    "InputError",
    "PeerLostError",
    "Preempted",
    "Progress",
    "UserError",
    "causes",
    "check_whole",
    "did_you_mean",
    "first_cause",
    "is_passing",
    "lost_peer",
    "no_progress",
    "optional",
    "printable",
    "short_repr",
    "warn",
]

T = TypeVar("T")


def __dir__() -> list[str]:
    return __all__


class UserError(ValueError):
    """What a person can mend: the command line shows the message alone, as one line."""


class InputError(UserError):
    """Something the user gave is wrong. The message says what was given, what was expected, and what to do."""


class DivergedError(UserError):
    """The loss or the state of a run is no finite number any more."""


class DiskFullError(UserError):
    """There is no room, or no file, for what a run writes; what it wrote before is whole."""


class Preempted(KeyboardInterrupt):
    """A signal ended a run, whose state is saved: the same command goes on."""


class PeerLostError(RuntimeError):
    """Another process of the run is gone; the message says how this one noticed."""


def check_whole(least: int | None = 1, **given: Any) -> None:
    """Refuses what is no whole number, or too small a one, by its name.

    >>> check_whole(passes=0)
    Traceback (most recent call last):
    resnet_jax.errors.InputError: passes is 0, but it must be a whole number, at least 1
    """
    for name, value in given.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or (least is not None and value < least):
            limit = "" if least is None else f", at least {least}"
            raise InputError(f"{name} is {value!r}, but it must be a whole number{limit}")


# A server or a cable that may be back at the next start.
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN)


def is_passing(error: BaseException | None) -> bool:
    """Whether a file system failed in a way that another start may find mended."""
    return isinstance(error, OSError) and error.errno in _PASSING


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came of: what went wrong first is the last one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_cause(error: BaseException) -> str:
    """What went wrong first, in a line: libraries wrap it in what they tried instead."""
    *_, cause = causes(error)
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]


def lost_peer(error: BaseException) -> str | None:
    """What was said where processes could not do something together, as when one of them is gone; else None.

    JAX raises it as one of two types, by where it waits for the others, and Orbax wraps it.
    """
    if isinstance(error, (UserError, PeerLostError)):
        return None
    # Not of a path, nor of a folder in one.
    said = r"(?<![\w/.-])(Gloo|NCCL)(?![\w/.-])|Barrier (timed out|failed)|[Cc]oordination ?[Ss]ervice"
    texts = (str(each) for each in causes(error) if isinstance(each, (RuntimeError, ValueError)))
    return next((text.strip().splitlines()[0] for text in texts if re.search(said, text)), None)


# Exit statuses. Those of a run that should be started again are not those of one that would only fail again.
WRONG, STOPPED, LOST = 2, 75, 76

# Of the invisible characters these two join letters, as in Persian, and parts of emojis.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """A text on one line that cannot steer a terminal: what has no shape is escaped, as "\\n" or "\\x1b".

    Names of files may hold such, marks that turn the direction of writing, and bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    shapeless = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) in shapeless and each not in _JOINERS
        else each
        for each in text
    )


def warn(line: str) -> None:
    """Prints a line to stderr about something wrong that a command goes on without."""
    if sys.stderr is None:  # closed from the beginning; print would take standard output
        return
    # Where nobody reads it, nothing is lost that a command needs.
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr)


def did_you_mean(given: str, names: Iterable[str], form: str = "{!r}") -> str:
    """A question for the name that is most like a given one, or nothing where none is like it.

    >>> did_you_mean("trian", ["train", "predict"])
    "did you mean 'train'? "
    """
    known = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given.lower(), known, n=1)
    return f"did you mean {form.format(known[close[0]])}? " if close else ""


def short_repr(self: Any) -> str:
    """The `repr` of a dataclass or a named tuple that holds much: arrays by dtype and shape, others by their first.

    >>> @dataclasses.dataclass
    ... class Names:
    ...     names: tuple[str, ...]
    ...     __repr__ = short_repr
    >>> Names(tuple("abcdefgh"))
    Names(names=('a', 'b', 'c', … 8 in all))
    """
    names = getattr(self, "_fields", None) or [each.name for each in dataclasses.fields(self) if each.repr]
    return f"{type(self).__name__}({', '.join(f'{name}={_short(getattr(self, name))}' for name in names)})"


def _short(value: Any) -> str:
    if hasattr(value, "dtype") and getattr(value, "size", 0) > 4:
        return f"{value.dtype} {value.shape}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, dict):  # without those inside it
        each = {name: "…" if isinstance(inner, dict) else _short(inner) for name, inner in value.items()}
        return f"{{{', '.join(f'{name!r}: {text}' for name, text in each.items())}}}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields") and len(value) > 5:
        return f"({', '.join(map(repr, value[:3]))}, … {len(value):,} in all)"
    return repr(value)


class Progress(Protocol):
    """Shows how far long work is: passes `total` items on, with a bar under a label, as `terminal.progress` does."""

    def __call__(self, iterable: Iterable[T], total: int, label: str) -> Iterable[T]: ...


def no_progress(iterable: Iterable[T], total: int, label: str) -> Iterable[T]:
    """A `Progress` that shows nothing."""
    return iterable


@contextlib.contextmanager
def optional(what: str, log: Callable[[str], None] = warn) -> Iterator[None]:
    """Whatever goes wrong inside is one line, which says `what` is missing then: no result waits for a picture."""
    try:
        yield
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log(f"{what} is missing: {why}")
