"""Measured figures, with the environment that they were measured in, as dicts that JSON can hold.

`train_benchmark` measures how fast a network trains on data that lie on the devices, and how
much of what these can do at best it uses: `device_peaks` and `least_work`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
