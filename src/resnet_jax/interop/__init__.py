"""Weights and programs that other libraries read and write.

`classifiers` makes a `Classifier` of a file of PyTorch weights, and such a file of a `Classifier`; `torch_weights` does
so with arrays. `exporting` writes a program that runs without this package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
