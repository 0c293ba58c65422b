"""Many runs: one for each point of a grid or of a search.

`points` says which points there are, and `plan` trains them (`sweep`): with `local` as processes of this machine, with
`slurm` as an array of jobs. `search` proposes points, and `runs` says how they went.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.sweeping.plan import sweep as sweep
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "plan": ["sweep"],
        },
    )
