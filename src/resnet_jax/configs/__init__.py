"""Packaged configs: each file has a `get_config(variant="")`, and a docstring with its command and what to expect.

`load("cifar10:plain", {"model.depth": 56})` is such a config with fields set; `base` lists the fields.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.configs.base import Config as Config
    from resnet_jax.configs.parsing import load as load

__all__ = ["Config", "load"]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from resnet_jax.configs.base import Config

        return Config
    if name == "load":
        from resnet_jax.configs.parsing import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
