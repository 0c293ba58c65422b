import io
import os

import pytest

from resnet_jax import errors, terminal
from resnet_jax.evaluation.predict import print_table
from resnet_jax.sweeping.display import results_table

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

    table = terminal.Table("name", "n", title=name)
    table.add_row(name, "1")
    lines = terminal.render(table).splitlines()
    assert lines[0] == shown
    assert [line for line in lines if line.strip().startswith(shown)][1].rstrip().endswith(" 1")


@pytest.mark.parametrize("name", ["a[copy]" * 30, "日本語" * 40, "x" * 300])
def test_what_is_too_long_for_a_terminal_is_folded_and_not_cut(name):
    table = terminal.Table("name", "n")
    table.add_row(name, "1")
    lines = terminal.render(table, width=60).splitlines()
    assert "…" not in "".join(lines)
    assert "".join(line.split(" 1")[0].strip() for line in lines[3:]) == name


def test_a_bar_shows_its_name_as_it_is():
    file = io.StringIO()
    with terminal.progress(terminal.console(file, force_terminal=True, width=100), speed=True) as bar:
        bar.add_task("[red]:boom:[/b]", total=2, speed="[3] images/s")
    assert "[red]:boom:[/b]" in file.getvalue()
    assert "[3] images/s" in file.getvalue()


def test_tables_of_commands_show_names_as_they_are(capsys):
    print_table([{"file": "a[copy].png", "classes": [{"name": "[/b]:boom:", "probability": 0.5}]}])
    said = capsys.readouterr().out
    assert "a[copy].png" in said
    assert "[/b]:boom:" in said
    row = {"point": {"dataset.data_dir": "/[red]/" + "x" * 200}, "errors": [0.5], "mean": 0.5, "std": None}
    assert row["point"]["dataset.data_dir"] in terminal.render(results_table([row], "[b]"))


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_console_that_cannot_write_stops_nothing(capsys, monkeypatch):
    closed = io.StringIO()
    closed.close()
    for file in (Broken(), closed):
        console = terminal.console(file)
        console.print("a line")
        with terminal.progress(console) as bar:
            bar.advance(bar.add_task("train", total=1))
        monkeypatch.setattr("sys.stderr", file)
        errors.complain("a line")
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
