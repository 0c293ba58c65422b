"""What people read: lines, tables and progress bars. This file alone knows Rich.

Texts are shown as they are, since they may be names of files: Rich would read "[b]" and ":smile:" in them, and cut long
words. A console that cannot write stops nothing: the reader of `train | head` has gone, and the run goes on.
"""

import contextlib
import datetime
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Protocol, TypeVar

import rich.box
import rich.console
import rich.progress
import rich.table
from rich.text import Text

from resnet_jax.errors import printable

T = TypeVar("T")

# Where no terminal ends a line, a table is as wide as what is in it.
UNLIMITED = 10_000


class Console(rich.console.Console):
    """Prints each text on one line, control characters escaped; made by `console`."""

    def render_str(self, text: str, **settings: Any) -> Text:
        # Every string comes through here, those in tables too.
        return super().render_str(printable(text), **settings)


class _Lossy:
    """A stream that loses what it cannot write, and replaces characters that its encoding lacks."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:  # of which nothing is written then
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError):  # a closed file raises the second one
            pass
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def console(file: IO[str] | None = None, **settings: Any) -> Console:
    """A console that writes to `file`, by default standard output; the settings are Rich's, such as `quiet`."""
    stream: Any = file if file is not None else sys.stdout
    if stream is not None:  # as where the process began with it closed
        stream = _Lossy(stream)
    made = Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=True, **settings)
    if "width" not in settings and not (made.is_terminal or made.is_jupyter):
        made.width = UNLIMITED
    return made


def shows_bars(console: Console) -> bool:
    """Whether it is a terminal, on which a bar can move."""
    return console.is_terminal and not console.is_jupyter


class Update(Protocol):
    """Moves a bar: how much is done, what is told of it, and in how many seconds all will be; what is None stays."""

    def __call__(self, completed: int | None = None, note: str | None = None, left: float | None = None) -> None: ...


class _Left(rich.progress.TimeRemainingColumn):
    """The time that is left as the last update said, less what has passed since; Rich's estimate where none did."""

    def render(self, task: rich.progress.Task) -> Text:
        if task.fields["end"] is None:
            return super().render(task)
        seconds = max(round(task.fields["end"] - time.monotonic()), 0)
        return Text(str(datetime.timedelta(seconds=seconds)), style="progress.remaining")


@contextlib.contextmanager
def bar(console: Console, label: str, total: int, completed: int = 0) -> Iterator[Update]:
    """A progress bar below what the console prints, on terminals only; yields an `Update`."""
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        # All of it fits 80 columns.
        rich.progress.BarColumn(bar_width=12),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[note]}", markup=False),
        _Left(),
        rich.progress.TextColumn("left"),
    )
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not shows_bars(console)) as shown:
        task = shown.add_task(printable(label), total=total, completed=completed, note="", end=None)

        def update(completed: int | None = None, note: str | None = None, left: float | None = None) -> None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            fields |= {} if left is None else {"end": time.monotonic() + left}
            shown.update(task, completed=completed, **fields)

        yield update


def progress(iterable: Iterable[T], total: int, label: str) -> Iterator[T]:
    """An `errors.Progress` that shows a `bar` on standard error."""
    with bar(console(sys.stderr), label, total) as update:
        for i, item in enumerate(iterable, start=1):
            yield item
            update(i)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    text_columns: int = 1,
    width: int | None = None,
) -> str:
    """A table as text, as wide as `width` or else the terminal at most; where there is none, as what is in it.

    An empty row leaves a gap. The first `text_columns` hold words, which begin at the left; numbers end at the right.
    """
    made = rich.table.Table(title=title or None, title_justify="left", box=rich.box.SIMPLE)
    for i, heading in enumerate(headings):
        # Rich would cut a long word.
        made.add_column(heading, justify="left" if i < text_columns else "right", overflow="fold")
    for row in rows:
        if row:
            made.add_row(*row)
        else:
            made.add_section()
    out = console(color_system=None)
    out.width = width or out.width
    with out.capture() as capture:
        out.print(made, soft_wrap=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")
