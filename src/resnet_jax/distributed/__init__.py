"""Many devices, processes and hosts.

`mesh` puts arrays on devices and alone knows them, `launch` starts the processes of a run, `agreement` holds what they
must agree on, and `machine` describes what they run on.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.distributed.launch import start_processes as start_processes
    from resnet_jax.distributed.mesh import (
        batch_sharded as batch_sharded,
        make_mesh as make_mesh,
        put_batch as put_batch,
        put_everywhere as put_everywhere,
        replicated as replicated,
    )
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "launch": ["start_processes"],
            "mesh": ["batch_sharded", "make_mesh", "put_batch", "put_everywhere", "replicated"],
        },
    )
