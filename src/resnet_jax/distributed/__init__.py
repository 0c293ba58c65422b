"""Many devices, processes and hosts.

`mesh` puts arrays on devices and alone knows them, `launch` starts the processes of a run, `agreement` holds what they
must agree on, and `machine` describes what they run on.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
