"""Command-line arguments: the flags of commands, and configs with fields set."""

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from resnet_jax.configs.fields import types
from resnet_jax.errors import InputError
from resnet_jax.files import expanded

# Defines a flag among the values.
Definition = Callable[[flags.FlagValues], Any]


class GivenConfig(NamedTuple):
    """What --config names, a packaged config or a file and perhaps a variant; and the texts of --config.FIELD."""

    source: str
    overrides: dict[str, str]


def split_config(arguments: Sequence[str]) -> tuple[GivenConfig | None, list[str]]:
    """Takes --config and --config.FIELD out of arguments: what they give, if anything, and the other arguments.

    Raises:
      InputError: one of them lacks its value, or fields are given and no config.
    """
    source, overrides, rest = None, {}, []
    fields, words = types(), iter(arguments)
    for word in words:
        match = re.fullmatch(r"--(no)?config(?:\.([^=]+))?(?:=(.*))?", word, re.DOTALL)
        if match is None:
            rest += [word, *words] if word == "--" else [word]
            continue
        negated, field, value = match.groups()
        if value is None and field in fields and fields[field][0] is bool:
            value = "false" if negated else "true"
        value = next(words, None) if value is None else value
        if value is None:
            raise InputError(f"{word} lacks its value, as in {word}=VALUE")
        if field is None:
            source = value
        else:
            overrides[field] = value
    if source is None and overrides:
        raise InputError(f"--config.{next(iter(overrides))} goes with --config=NAME, which is not given")
    return None if source is None else GivenConfig(source, overrides), rest


def parse(arguments: Sequence[str], *define: Definition) -> tuple[flags.FlagValues, list[str]]:
    """Parses flags that `define` defines; returns their values and the other arguments.

    Raises:
      InputError: a flag that does not exist, or a value of another type.
    """
    values = flags.FlagValues()
    for definition in define:
        definition(values)
    try:
        return values, values(["resnet-jax", *arguments])[1:]
    except flags.Error as error:
        said = str(error).strip().splitlines()[-1]
        if isinstance(error, flags.UnrecognizedFlagError):
            files = [each for each in arguments if each.startswith("-") and os.path.lexists(each)]
            said += f": the file of that name is ./{files[0]}" if files else ""
        raise InputError(said) from error


def flags_of(arguments: Sequence[str], *define: Definition) -> flags.FlagValues:
    """The values of flags as `parse` reads them, of a command that takes no other arguments."""
    values, rest = parse(arguments, *define)
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}: see --help")
    return values


def _flag(define: Callable[..., Any], name: str, default: Any) -> Definition:
    return lambda values: define(name, default, help="", flag_values=values)


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


def train_workdir(given: str | None, source: str) -> Path:
    """The workdir that was given, or runs/NAME after the config's name and variant.

    Raises:
      InputError: see `files.expanded`.
    """
    if given is not None:
        return expanded(given, "--workdir")
    file, _, variant = source.partition(":")
    return Path("runs", Path(file).stem + (f"-{variant}" if variant else ""))
