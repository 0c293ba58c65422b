"""Packaged configs: each file has a `get_config(variant="")`, and a docstring with its command and what to expect.

`load("cifar10:plain", {"model.depth": 56})` is such a config with fields set; `base` lists the fields.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.configs.base import Config as Config
    from resnet_jax.configs.parsing import load as load
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "base": ["Config"],
            "parsing": ["load"],
        },
    )
