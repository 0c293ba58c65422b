"""From a command line to the arguments of a command: every keyword of its function is a flag of that name."""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from resnet_jax.configs.fields import CHANGES, converted, types
from resnet_jax.errors import InputError, did_you_mean
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

    The type of a keyword says what its flag holds: str, int, float, Path, one text of a Literal; bool, a flag without
    a value; list[int] or list[float], which commas separate; list[str], a flag that can be given several times;
    list[Path], see `folders`; GivenConfig, of --config and --config.FIELD. Of a flag that holds one value and is given
    several times, the last one counts. A keyword without a default cannot be left out. Only a function with *arguments
    takes others than flags.

    Raises:
      InputError: of the command, where a flag is unknown, missing or holds something else.
    """
    parameters = inspect.signature(function).parameters.values()
    named = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    @functools.wraps(function)
    def run(arguments: Sequence[str]) -> None:
        given, rest = _parse(arguments, flags(function))
        missing = [name for name, default in named.items() if default is inspect.Parameter.empty and name not in given]
        if rest and len(named) == len(parameters):
            meant = f"did you mean --{missing[0]}={rest[0]}? " if missing else ""
            raise InputError(f"unexpected argument {rest[0]!r}: {meant}see --help")
        overrides = {name.removeprefix("config."): given.pop(name)[-1] for name in list(given) if "." in name}
        if overrides and "config" not in given:
            raise InputError(f"--config.{next(iter(overrides))} goes with --config=NAME, which is not given")
        if missing:
            raise InputError(f"--{missing[0]} is missing: see --help")
        found = {name: _read(texts, flags(function)[name], name) for name, texts in given.items()}
        if "config" in found:
            found["config"] = GivenConfig(found["config"], overrides)
        function(*rest, **named | found)

    return run


def flags(function: Callable[..., Any]) -> dict[str, Any]:
    """The flags of a command, or of its function, and the types of what they hold."""
    hints, parameters = get_type_hints(inspect.unwrap(function)), inspect.signature(function).parameters.values()
    found = {each.name: hints[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    # Of one that may also be None, the other type.
    return {name: get_args(hint)[0] if isinstance(hint, UnionType) else hint for name, hint in found.items()}


def _parse(arguments: Sequence[str], kinds: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """The texts of each flag that is given, --config.FIELD among them, and the other arguments.

    Raises:
      InputError: a flag is unknown, or lacks its value.
    """
    fields = types() if GivenConfig in kinds.values() else {}
    known = {**kinds, **{f"config.{name}": kind for name, (kind, _) in fields.items()}}
    texts: dict[str, list[str]] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += words
        elif word == "-" or not word.startswith("-"):
            rest.append(word)
        else:
            name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
            positive = name.removeprefix("no")
            if name not in known and known.get(positive) is bool:
                if equals:
                    raise InputError(f"--{name} takes no value: it stands for --{positive}=false")
                name, equals, value = positive, "=", "false"
            # Of unknown fields `configs.load` says more.
            if name not in known and not (fields and name.startswith("config.")):
                raise InputError(_unknown(word, name, known))
            if not equals:
                value = "true" if known.get(name) is bool else next(words, "--")
            if not equals and value.startswith("--"):
                raise InputError(f"{word} lacks its value, as in --{name}=VALUE")
            texts.setdefault(name, []).append(value)
    return texts, rest


def _unknown(word: str, name: str, known: Mapping[str, Any]) -> str:
    """What is wrong with a flag that a command does not have."""
    renamed = (pair for change in CHANGES.values() for pair in change.renamed.items())
    new = {old.split(".")[1]: new for old, new in renamed}.get(name)
    if new is not None:
        return f"--{name} is called --{last if (last := new.split('.')[1]) in known else f'config.{new}'} now"
    if os.path.lexists(word):
        return f"unknown flag {word}: the file of that name is ./{word}"
    # The short names of fields, as other programs have them: --depth, --batch-size.
    meant = name.replace("-", "_")
    longer = [each for each in known if each.endswith(f".{meant}")]
    hint = f"did you mean --{' or --'.join(longer)}? " if longer else did_you_mean(meant, known, "--{}")
    own = ", ".join(f"--{each}" for each in known if not each.startswith("config."))
    return f"unknown flag {word.partition('=')[0]}: {hint or f'the flags of this command are {own}: '}see --help"


# Flags whose path may lie in a bucket, where what it is given to can read and write there.
_REMOTE = ("workdir", "weights", "output")
_WANTED = {int: "a whole number, such as 224", float: "a number, such as 0.5", bool: "true or false"}


def _read(texts: Sequence[str], kind: Any, flag: str) -> Any:
    """What the texts of a flag stand for: the last one, where the flag holds one value."""
    text = texts[-1]
    if kind is Path:
        return expanded(text, f"--{flag}", remote=flag in _REMOTE)
    if kind == list[Path]:
        return folders(texts, flag)
    if kind in (str, GivenConfig):
        return text
    if kind == list[str]:
        return list(texts)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            hint = did_you_mean(text, get_args(kind))
            raise InputError(f"--{flag}={text} is not one of {', '.join(get_args(kind))}" + (hint and f": {hint[:-1]}"))
        return text
    number = get_args(kind)[0] if get_origin(kind) is list else kind
    try:
        if number is kind:
            return converted(text, kind)
        text = ",".join(texts)
        return [converted(part, number) for part in text.split(",")]
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
                found.append(expanded(name, f"--{flag}", remote=flag in _REMOTE))
            parts = parts[end:]
    if not found:
        raise InputError(f"--{flag} is empty: is a variable unset?")
    return found


def show(format: Format, result: Any, text: Callable[[], str]) -> None:
    """Prints a command's result as its flag --format says."""
    print(json.dumps(result, indent=2) if format == "json" else text(), flush=True)
