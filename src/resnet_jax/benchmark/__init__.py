"""Measured figures, with the environment that they were measured in, as dicts that JSON can hold.

`train_benchmark` measures how fast a network trains on data that lie on the devices, `eval_benchmark` how fast it
scores them, `input_benchmark` how fast images are read, `compile_benchmark` how long a step takes to compile, and
`memory_benchmark` what it keeps. `device_peaks` and `least_work` are what the first two set a network beside.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
