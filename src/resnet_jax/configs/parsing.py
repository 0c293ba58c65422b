"""Configs by name, with fields set."""

import importlib
import inspect
import os
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.configs import fields
from resnet_jax.configs.base import Config
from resnet_jax.errors import InputError, UserError, did_you_mean, printable
from resnet_jax.files import expanded

_OTHER_FILES = ("base", "fields", "parsing")
PACKAGED = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py") if path.stem not in _OTHER_FILES))


def load(source: str | os.PathLike[str], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Loads a config and sets fields of it.

    Args:
      source: a packaged config, "digits"; one of its variants, "digits:plain"; or a path to a file with `get_config`.
      overrides: fields by name, {"model.depth": 56}, or as on the command line, ["model.depth=56"]. Values that are
        text are read as on the command line, where "none" unsets what may be None and is no path.

    Raises:
      InputError: no such config, variant or field, or a value of another type.

    Example:
      >>> import resnet_jax as rj
      >>> rj.configs.load("cifar10:plain", {"model.depth": 56}).model.family
      'cifar_plain'
    """
    if not isinstance(source, str | os.PathLike):
        found = type(source).__name__
        raise InputError(f"the config is of type {found}, but it must be a name, such as 'digits', or a file")
    config = _get_config(os.fspath(source))
    if not isinstance(overrides, Mapping):
        overrides = {name: value for name, _, value in (each.partition("=") for each in overrides)}
    types = fields.types()
    for name, value in overrides.items():
        if name not in types:
            raise InputError(f"there is no field config.{name}: {fields.hint(name)}resnet-jax train --help lists all")
        kind, optional = types[name]
        none = value is None or (isinstance(value, str) and value.lower() == "none" and name not in fields.PATHS)
        try:
            may_be_none = optional or name in fields.OF_WEIGHTS
            value = None if may_be_none and none else fields.converted(value, kind)
        except ValueError as error:
            wanted = fields.KINDS[kind] + (" or none" if optional else "")
            raise InputError(printable(f"config.{name}={value}, but it must be {wanted}")) from error
        section, last = fields.section_of(config, name)
        with config.ignore_type():
            section[last] = value
    return config


_BEFORE = """from resnet_jax.configs import base


def get_config():
    config = base.get_config()
    with config.ignore_type():"""


def as_source(config: Config) -> str:
    """Python with a `get_config` that gives such a config: a file that holds it can be loaded, and edited before.

    >>> as_source(load("digits", {"seed": 3})).splitlines()[6]
    '        config.seed = 3'
    """
    lines = [f"        config.{field.name} = {field.default!r}" for field in fields.described(config)]
    return "\n".join([_BEFORE, *lines, "    return config"])


def _get_config(source: str) -> Config:
    name, _, variant = source.partition(":")
    try:
        if name in PACKAGED:
            get_config = importlib.import_module(f"resnet_jax.configs.{name}").get_config
        else:
            get_config = runpy.run_path(str(_file(source, name)))["get_config"]
        if variant and not inspect.signature(get_config).parameters:
            raise InputError("this config has no variants: leave the colon and what follows it away")
        config = get_config(variant) if variant else get_config()
        if not isinstance(config, Config):
            raise TypeError(f"get_config gives a {type(config).__name__}, and not what configs.base gives")
        return config
    except UserError:
        raise
    except Exception as error:  # of a file that somebody wrote
        said = (str(error).strip().splitlines() or ["it failed"])[-1]
        raise InputError(f"the config {source} gives none: {type(error).__name__}: {said}") from error


def _file(source: str, name: str) -> Path:
    path = expanded(name, "the config")
    if not path.is_file():
        raise InputError(
            f"the config {source} is neither a file nor a packaged one: {did_you_mean(name, PACKAGED)}these are "
            f"{', '.join(PACKAGED)}"
        )
    return path
