"""Training as pure functions: no config, no folder and no loop is known here.

`state` is all that a step changes, `losses` what it minimises (and how a loss of one's own is written), `metrics` what
it tells, `optimizers` the paper's. `step` is the step as a function, `compiled` as a program: `make_train_step` for a
loop of one's own, `compile_steps` for many steps to a dispatch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
