"""Weights and programs that other libraries read and write.

`classifiers` makes a `Classifier` of a file of PyTorch weights, and such a file of a `Classifier`; `torch_weights` does
so with arrays. `exporting` writes a program that runs without this package.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.interop.classifiers import load_torch as load_torch, save_torch as save_torch
    from resnet_jax.interop.exporting import export as export
    from resnet_jax.interop.torch_weights import from_torch as from_torch, to_torch as to_torch
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "classifiers": ["load_torch", "save_torch"],
            "exporting": ["export"],
            "torch_weights": ["from_torch", "to_torch"],
        },
    )
