"""From a command line to the arguments of a command: every keyword of its function is a flag of that name."""

import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from absl import flags

from resnet_jax.configs.fields import CHANGES, types
from resnet_jax.errors import InputError
from resnet_jax.files import expanded

# How a command prints its result; see `show`.
Format = Literal["table", "json"]


class GivenConfig(NamedTuple):
    """What --config names, a packaged config or a file and perhaps a variant; and the texts of --config.FIELD."""

    source: str
    overrides: dict[str, str]

    def workdir(self) -> Path:
        """The default of --workdir: runs/NAME after the config's name and variant."""
        file, _, variant = self.source.partition(":")
        return Path("runs", Path(file).stem + (f"-{variant}" if variant else ""))


def command(function: Callable[..., None]) -> Callable[[Sequence[str]], None]:
    """Makes a command of a function: it takes the arguments of the command line.

    The type of a keyword says what its flag holds: str, int, float, Path, one text of a Literal; list[int] or
    list[float], which commas separate; list[str], a flag that can be given several times; list[Path], see `folders`;
    GivenConfig, of --config. A keyword without a default cannot be left out. Only a function with *arguments takes
    others than flags.

    Raises:
      InputError: of the command, where a flag is unknown, missing or holds something else.
    """
    kinds, parameters = get_type_hints(function), inspect.signature(function).parameters.values()
    named = [each for each in parameters if each.kind is each.KEYWORD_ONLY]

    @functools.wraps(function)
    def run(arguments: Sequence[str]) -> None:
        found: dict[str, Any] = {}
        if "config" in kinds:
            found["config"], arguments = split_config(arguments)
        texts, rest = _parse(arguments, {each.name: _kind(kinds[each.name]) for each in named})
        if rest and len(named) == len(parameters):
            raise InputError(f"unexpected argument {rest[0]!r}: see --help")
        for name, text in texts.items():
            if text is not None:
                found[name] = _read(text, _kind(kinds[name]), name)
        keywords = {each.name: each.default if (value := found.get(each.name)) is None else value for each in named}
        for name, value in keywords.items():
            if value is inspect.Parameter.empty:
                raise InputError(f"--{name} is missing: see --help")
        function(*rest, **keywords)

    return run


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


def _parse(arguments: Sequence[str], kinds: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The text of each flag, or the texts of one that holds a list, or None; and the other arguments."""
    values = flags.FlagValues()
    for name, kind in kinds.items():
        if kind is GivenConfig:
            continue
        define = flags.DEFINE_multi_string if get_origin(kind) is list else flags.DEFINE_string
        define(name, None, help="", flag_values=values)
    try:
        rest = values(["resnet-jax", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        renamed = (pair for change in CHANGES.values() for pair in change.renamed.items())
        names = {old.split(".")[1]: new for old, new in renamed}
        if error.flagname in names:
            field = names[error.flagname]
            flag = name if (name := field.split(".")[1]) in kinds else f"config.{field}"
            raise InputError(f"--{error.flagname} is called --{flag} now") from error
        files = [each for each in arguments if each.startswith("-") and os.path.lexists(each)]
        raise InputError(f"{error}: the file of that name is ./{files[0]}" if files else str(error)) from error
    except flags.Error as error:
        raise InputError(str(error).strip().splitlines()[-1]) from error
    return values.flag_values_dict(), rest


def _kind(hint: Any) -> Any:
    """The type of a keyword that may also be None."""
    return get_args(hint)[0] if isinstance(hint, UnionType) else hint


_WANTED = {int: "a whole number, such as 224", float: "a number, such as 0.5"}


def _read(given: Any, kind: Any, flag: str) -> Any:
    """What the text of a flag, or the texts of one that was given several times, stands for."""
    if kind is Path:
        return expanded(given, f"--{flag}")
    if kind == list[Path]:
        return folders(given, flag)
    if kind in (str, list[str]):
        return given
    if get_origin(kind) is Literal:
        if given not in get_args(kind):
            raise InputError(f"--{flag}={given} is not one of {', '.join(get_args(kind))}")
        return given
    number = get_args(kind)[0] if get_origin(kind) is list else kind
    text = given if kind is number else ",".join(given)
    try:
        return number(text) if kind is number else [number(part) for part in text.split(",")]
    except ValueError as error:
        several = "" if kind is number else ", or several with commas between them"
        raise InputError(f"--{flag}={text} is wrong: it must be {_WANTED[number]}{several}") from error


def folders(values: Sequence[str], flag: str) -> list[Path]:
    """The folders of a flag, which commas separate; a folder that exists may have commas in its name, as that of a
    sweep's point has.
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


def show(format: Format, result: Any, text: Callable[[], str]) -> None:
    """Prints a command's result as its flag --format says."""
    print(json.dumps(result, indent=2) if format == "json" else text(), flush=True)
