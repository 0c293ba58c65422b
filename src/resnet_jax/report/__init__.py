"""The paper's claims beside what experiments found: results as JSON (`claims`), and a page of them
(`page`) with its `figures`.

`experiments/paper` writes the results; `resnet-jax report` reads them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
