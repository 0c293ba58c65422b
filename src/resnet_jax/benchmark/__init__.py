"""Measured figures, with the environment that they were measured in, as dicts that JSON can hold.

`train_benchmark` measures how fast a network trains on data that lie on the devices.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.benchmark.train import VARIANTS as VARIANTS, Variant as Variant, train_benchmark as train_benchmark
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "train": ["VARIANTS", "Variant", "train_benchmark"],
        },
    )
