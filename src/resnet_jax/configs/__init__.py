"""Packaged configs: each file has a `get_config(variant="")`, and a docstring with its command and what to expect.

`load("cifar10:plain", {"model.depth": 56})` is such a config with fields set; `base` lists the fields.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
