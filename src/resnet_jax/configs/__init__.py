"""Packaged configs: each file has a `get_config(variant="")`, and a docstring with its command and what to expect."""

from typing import Any, TypeAlias

# An ml_collections.ConfigDict with the fields of `configs.base`, which type checkers cannot see in one.
Config: TypeAlias = Any
