"""Many runs: one for each point of a grid or of a search.

`points` says which points there are, and `plan` trains them (`sweep`): with `local` as processes of this machine, with
`slurm` as an array of jobs. `search` proposes points, and `runs` says how they went.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
