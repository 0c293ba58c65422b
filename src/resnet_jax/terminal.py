"""What people read: lines, tables and progress bars. This file alone knows Rich.

Rich reads "[b]" and ":smile:" in what it prints, and cuts a long word. Here a text is shown as it is, since it may be
the name of somebody's file. And a console that cannot write stops nothing: the reader of `train | head` has gone, and
the run goes on.
"""

import contextlib
import io
import sys
from typing import IO, Any

import rich.box
import rich.console
import rich.progress
import rich.table
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

from resnet_jax.errors import printable

# Where no terminal ends a line, a table is as wide as what is in it.
_UNLIMITED = 10_000


class Console(rich.console.Console):
    """Prints texts as they are, control characters escaped, each on one line; made by `console`."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string that is printed comes through here, those in tables too."""
        return super().render_str(printable(text), **settings)


class Table(rich.table.Table):
    """A table whose columns fold a long word, where Rich would cut it."""

    def __init__(self, *headers: str, title: str | None = None, **settings: Any):
        super().__init__(*headers, title=title, title_justify="left", box=rich.box.SIMPLE, **settings)

    def add_column(self, header: Any = "", *arguments: Any, **settings: Any) -> None:
        """See Rich."""
        super().add_column(header, *arguments, **{"overflow": "fold", **settings})


class _Column(rich.progress.TextColumn):
    def render(self, task: rich.progress.Task) -> Text:
        return Text(printable(self.text_format.format(task=task)), style=self.style, justify=self.justify)


class _Lossy(io.TextIOBase):
    """A stream that loses what it cannot write, and replaces characters that its encoding lacks."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # of which nothing is written then
            self.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        except (OSError, ValueError):  # a closed file raises the second one
            pass
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        return self._stream.fileno()


def console(file: IO[str] | None = None, *, stderr: bool = False, **settings: Any) -> Console:
    """A console for names that people gave.

    Args:
      file: where it writes; by default standard output, or standard error.
      stderr: see there.
      settings: of Rich's console, such as `quiet`.
    """
    stream: Any = file if file is not None else sys.stderr if stderr else sys.stdout
    stream = getattr(stream, "rich_proxied_file", stream)
    if stream is not None:  # as where the process began with it closed
        stream = _Lossy(stream)
    made = Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=True, **settings)
    if "width" not in settings and not (made.is_terminal or made.is_jupyter):
        made.width = _UNLIMITED
    return made


def progress(console: Console, *, speed: bool = False, transient: bool = False) -> Progress:
    """A progress bar.

    Args:
      console: where.
      speed: whether its tasks have a field of this name, a text that is shown.
      transient: shown on terminals only, and wiped away at the end.
    """
    columns: list[rich.progress.ProgressColumn] = [
        _Column("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        *([_Column("{task.fields[speed]}")] if speed else []),
        rich.progress.TimeRemainingColumn(),
        _Column("left"),
    ]
    hidden = console.is_jupyter or (transient and not console.is_terminal)
    return Progress(*columns, console=console, transient=transient, disable=hidden)


def live(console: Console) -> Live:
    """A place on a terminal that shows a table, and another one after it."""
    return Live(console=console, auto_refresh=False)


def render(*tables: Table, width: int | None = None) -> str:
    """Tables as text, one below the other.

    Args:
      tables: in their order.
      width: of the text, by default that of the terminal, and without an end where there is none.
    """
    wide: dict[str, Any] = {} if width is None else {"width": width}
    out = console(color_system=None, **wide)
    with out.capture() as capture:
        for table in tables:
            out.print(table, soft_wrap=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
