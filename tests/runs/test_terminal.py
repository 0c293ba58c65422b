import io
import os

import pytest

from resnet_jax import errors
from resnet_jax.runs import terminal
from resnet_jax.sweeping.runs import results_table

# What Rich would read as markup or an emoji, and what a name may hold on the disk.
NAMES = ["a[copy].png", "[red]", "a[/b]", "[lr=0.1]", ":boom:", "$x$", "日本語", "שלום", "x" * 300, "a  b", "\\[b]"]
ESCAPED = {
    "two\nlines": r"two\nlines",
    "\x1b[31mred": r"\x1b[31mred",
    "bell\a\r": r"bell\x07\r",
    "caf\udce9": r"caf\udce9",  # what Python makes of a Latin-1 name
    "gpj.\u202ephoto": r"gpj.\u202ephoto",
    "Screenshot 9.41\u202fPM.png": "Screenshot 9.41\u202fPM.png",  # as macOS names them
    "می\u200cخواهم": "می\u200cخواهم",
}


@pytest.mark.parametrize("name", [*NAMES, *ESCAPED])
def test_names_are_shown_as_they_are_on_one_line(name):
    shown = ESCAPED.get(name, name)
    file = io.StringIO()
    console = terminal.console(file)
    console.print(f"{name} is damaged")
    assert file.getvalue() == f"{shown} is damaged\n"

    lines = terminal.table(("name", "n"), [(name, "1")], title=name).splitlines()
    assert lines[0] == shown
    assert [line for line in lines if line.strip().startswith(shown)][1].rstrip().endswith(" 1")


@pytest.mark.parametrize("name", ["a[copy]" * 30, "日本語" * 40, "x" * 300])
def test_what_is_too_long_for_a_terminal_is_folded_and_not_cut(name, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    lines = terminal.table(("name", "n"), [(name, "1")]).splitlines()
    assert "…" not in "".join(lines)
    assert "".join(line.split(" 1")[0].strip() for line in lines[2:]) == name


def test_an_empty_row_leaves_a_gap_and_numbers_stand_at_the_right():
    table = terminal.table(("name", "n"), [("a", "1"), ("b", "100"), (), ("total", "101")])
    assert [line.split() for line in table.splitlines()[2:]] == [["a", "1"], ["b", "100"], [], ["total", "101"]]
    assert len({len(line) for line in table.splitlines()[2:] if line}) == 1


def test_a_bar_shows_its_name_as_it_is():
    file = io.StringIO()
    with terminal.bar(terminal.console(file, force_terminal=True, width=100), "[red]:boom:[/b]", 2) as update:
        update(1, "[3] images/s")
    assert "[red]:boom:[/b]" in file.getvalue()
    assert "[3] images/s" in file.getvalue()


def test_progress_passes_everything_on_and_is_shown_on_terminals_only(capsys, monkeypatch):
    assert list(terminal.progress(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(terminal.progress(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert "letters" in capsys.readouterr().err


def test_tables_of_sweeps_show_names_as_they_are():
    row = {"point": {"dataset.data_dir": "/[red]/" + "x" * 200}, "split": "test", "errors": [0.5], "mean": 0.5}
    row["std"] = None
    assert row["point"]["dataset.data_dir"] in results_table([row], "[b]")


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_console_that_cannot_write_stops_nothing(capsys, monkeypatch):
    closed = io.StringIO()
    closed.close()
    for file in (Broken(), closed):
        console = terminal.console(file)
        console.print("a line")
        with terminal.bar(console, "train", 1) as update:
            update(1)
        monkeypatch.setattr("sys.stderr", file)
        errors.warn("a line")
    with open(os.devnull) as unwritable:
        terminal.console(unwritable).print("a line")
    monkeypatch.setattr("sys.stdout", None)
    terminal.console().print("a line")


def test_characters_that_an_encoding_lacks_are_replaced():
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    terminal.console(file).print("caf\u00e9 \u00d7 2")
    file.flush()
    assert file.buffer.getvalue() == rb"caf\xe9 \xd7 2" + b"\n"


def test_what_is_optional_is_a_line_and_not_an_error():
    said = []
    with errors.optional("the picture", said.append):
        raise ValueError("first line\nsecond line")
    with errors.optional("the picture", said.append):
        raise AssertionError
    with pytest.raises(KeyboardInterrupt), errors.optional("the picture", said.append):
        raise KeyboardInterrupt
    assert said == ["the picture is missing: first line", "the picture is missing: AssertionError"]
