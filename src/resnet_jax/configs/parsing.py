"""Configs by name, with fields set: on the command line, where flags of a command stand beside them, and in Python."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from resnet_jax.configs import base
from resnet_jax.configs.base import Config
from resnet_jax.errors import InputError
from resnet_jax.files import expanded

# Defines a flag among the values; argv is the whole command line.
Definition = Callable[[flags.FlagValues, list[str]], Any]

_CONFIGS = Path(__file__).parent
_PACKAGED = tuple(sorted(path.stem for path in _CONFIGS.glob("[!_]*.py") if path.stem not in ("base", "parsing")))


def load(source: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Loads a config and sets fields of it.

    Args:
      source: a packaged config, "digits"; one of its variants, "digits:plain"; or a path to a file with `get_config`.
      overrides: fields by name, {"model.depth": 56}, or as on the command line, ["model.depth=56"]; "none" or None
        unsets a number.

    Raises:
      InputError: no such config, variant or field, or a value of another type.

    Example:
      >>> import resnet_jax as rj
      >>> rj.configs.load("cifar10:plain", {"model.depth": 56}).model.family
      'cifar_plain'
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{name}={value}" for name, value in overrides.items()]
    values, _ = parse([f"--config={source}", *(f"--config.{override}" for override in overrides)], config_flag)
    return values.config


def parse(arguments: Sequence[str], *define: Definition) -> tuple[flags.FlagValues, list[str]]:
    """Parses flags that `define` defines; returns their values and the other arguments.

    Raises:
      InputError: a flag or a config field that does not exist, or a value of another type.
    """
    arguments, unset = _without_none(with_config_paths(arguments))
    values = flags.FlagValues()
    argv = ["resnet-jax", *arguments]
    for definition in define:
        definition(values, argv)
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        # The last line says what is wrong; before it may stand the traceback of a config file.
        said = str(error).strip().splitlines()[-1].removeprefix("resnet_jax.errors.InputError: ")
        if "get_config() takes 0 positional arguments" in said:
            said = "this config has no variants: leave the colon and what follows it away"
        if isinstance(error, flags.UnrecognizedFlagError):
            files = [each for each in arguments if each.startswith("-") and os.path.lexists(each)]
            said += f": the file of that name is ./{files[0]}" if files else ""
        raise InputError(said) from error
    except (AttributeError, KeyError) as error:  # ml_collections says which field there is instead, on a second line
        said = " ".join(str(error.args[0]).replace("\\n", "\n").split("\n")[1:]).strip("\"' ")
        raise InputError(f"there is no such config field: {said or error}") from error
    except OSError as error:
        raise InputError(str(error).splitlines()[-1].strip()) from error
    config: Any = values.config if "config" in values else None
    if config is not None:
        with config.ignore_type():
            for section, name in unset:
                config[section][name] = None
    return values, rest


def _without_none(arguments: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes out arguments such as --config.model.bn_group_size=none, of numbers that may be None; and the fields' names.

    ml_collections reads a number as a number, so that one that a config sets could not be unset.
    """
    optional = {
        f"--config.{section}.{name}": (section, name)
        for section, fields in base.get_config().items()
        if isinstance(fields, ConfigDict)
        for name, value in fields.items()
        if value is None and fields.get_type(name) is not str
    }
    joined = list(arguments)
    for i in reversed(range(len(joined) - 1)):
        if joined[i] in optional:  # --config.model.bn_group_size none
            joined[i : i + 2] = [f"{joined[i]}={joined[i + 1]}"]
    kept, unset = [], {}
    for argument in joined:
        flag, _, value = argument.partition("=")
        if flag in optional and value.lower() == "none":
            unset[flag] = optional[flag]
        else:
            unset.pop(flag, None)  # of two values the later one counts
            kept.append(argument)
    return kept, list(unset.values())


def overridden(values: flags.FlagValues, arguments: Sequence[str]) -> dict[str, str]:
    """The config fields that arguments set, such as {"train.iterations": "20"}, once `parse` has read them."""
    given = config_flags.get_override_values(values["config"])
    texts = {field: repr(value) if isinstance(value, tuple) else str(value) for field, value in given.items()}
    unset = _without_none(with_config_paths(arguments))[1]
    return texts | {f"{section}.{name}": "none" for section, name in unset}


def with_config_paths(arguments: Sequence[str]) -> list[str]:
    """Puts the path of a packaged config where its name stands: digits:plain -> …/configs/digits.py:plain."""
    joined = list(arguments)
    for i, argument in enumerate(joined[:-1]):
        if argument == "--config":
            joined[i : i + 2] = [f"--config={joined[i + 1]}"]
            break
    for i, argument in enumerate(joined):
        if argument.startswith("--config="):
            joined[i] = f"--config={_config_path(argument.removeprefix('--config='))}"
    return joined


def _config_path(source: str) -> str:
    name, colon, variant = source.partition(":")
    if name in _PACKAGED:
        return f"{_CONFIGS / name}.py{colon}{variant}"
    path = expanded(name, "--config")
    if not path.is_file():
        close = difflib.get_close_matches(name, _PACKAGED, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"--config={source} is neither a file nor a packaged config: {hint}these are {', '.join(_PACKAGED)}"
        )
    return f"{path}{colon}{variant}"


def config_flag(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines --config, a config file, and --config.FIELD for its fields, which it looks for in all of argv."""
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)


def config_source(arguments: Sequence[str]) -> str:
    """What --config names, a file and perhaps a variant, once `parse` has read it: "…/configs/digits.py:plain"."""
    flag = next(argument for argument in with_config_paths(arguments) if argument.startswith("--config="))
    return flag.removeprefix("--config=")
