"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import resnet_jax

SOURCE = Path(resnet_jax.__file__).parent
WITH_EXAMPLES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if ">>> " in path.read_text())


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples(path):
    parts = path.with_suffix("").parts
    name = ".".join(("resnet_jax", *parts)).removesuffix(".__init__")
    assert doctest.testmod(importlib.import_module(name)).failed == 0
