"""Command-line arguments: the flags of commands. Configs are parsed by `configs.parsing`."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from resnet_jax.configs.parsing import Definition, config_source, parse
from resnet_jax.errors import InputError
from resnet_jax.files import expanded


def flags_of(arguments: Sequence[str], *define: Definition) -> flags.FlagValues:
    """The values of flags as `parse` reads them, of a command that takes no other arguments."""
    values, rest = parse(arguments, *define)
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}: see --help")
    return values


def _flag(define: Callable[..., Any], name: str, default: Any) -> Definition:
    return lambda values, _: define(name, default, help="", flag_values=values)


def string(name: str, default: str | None = None, choices: Sequence[str] = ()) -> Definition:
    """A flag that holds text, one of `choices` if there are any."""
    return _flag(partial(flags.DEFINE_enum, enum_values=choices) if choices else flags.DEFINE_string, name, default)


def strings(name: str) -> Definition:
    """A flag that can be given several times; see `listed`."""
    return _flag(flags.DEFINE_multi_string, name, None)


def integer(name: str, default: int | None = None) -> Definition:
    """A flag that holds a whole number."""
    return _flag(flags.DEFINE_integer, name, default)


def number(name: str, default: float | None = None) -> Definition:
    """A flag that holds a number."""
    return _flag(flags.DEFINE_float, name, default)


def listed(values: Sequence[str]) -> list[str]:
    """The parts of a flag of `strings`, which commas separate: a,b and c -> a, b, c."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def path(value: str | None, flag: str) -> Path | None:
    """The path that a flag holds, if it was given; see `files.expanded`."""
    return None if value is None else expanded(value, f"--{flag}")


def folders(values: Sequence[str], flag: str) -> list[Path]:
    """The folders of a flag of `strings`, which commas separate; a folder that exists may have commas in its name, as
    that of a sweep's point has.
    """
    found = []
    for value in values:
        parts = value.split(",")
        while parts:
            names = [",".join(parts[:end]) for end in range(len(parts), 1, -1)]
            end = next((name.count(",") + 1 for name in names if os.path.isdir(os.path.expanduser(name))), 1)
            if name := ",".join(parts[:end]).strip():
                found.append(expanded(name, f"--{flag}"))
            parts = parts[end:]
    if not found:
        raise InputError(f"--{flag} is empty: is a variable unset?")
    return found


# Of commands that several processes run together; see `launch.start_processes`.
DISTRIBUTED = (string("distributed"), integer("num_processes"), integer("process_id"))


def given(value: Any, flag: str) -> Any:
    """The value of a flag that cannot be left out."""
    if value is None:
        raise InputError(f"--{flag} is missing: see --help")
    return value


def whole_numbers(text: str, flag: str, wanted: str) -> list[int]:
    """The numbers of a flag, which commas separate; `wanted` says what they are, with an example."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise InputError(f"--{flag}={text} is wrong: it must be {wanted}")
    return [int(part) for part in text.split(",")]


FORMAT = string("format", "table", ("table", "json"))


def show(values: flags.FlagValues, result: Any, text: Callable[[], str]) -> None:
    """Prints a command's result as its flag `FORMAT` says."""
    print(json.dumps(result, indent=2) if values.format == "json" else text(), flush=True)


def train_workdir(given: str | None, arguments: Sequence[str]) -> Path:
    """The workdir that was given, or runs/NAME after the config's name and variant.

    Raises:
      InputError: see `files.expanded`.
    """
    if given is not None:
        return expanded(given, "--workdir")
    file, _, variant = config_source(arguments).partition(":")
    return Path("runs", Path(file).stem + (f"-{variant}" if variant else ""))
