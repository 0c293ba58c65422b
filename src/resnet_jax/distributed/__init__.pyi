from .launch import start_processes as start_processes
from .mesh import (
    batch_sharded as batch_sharded,
    make_mesh as make_mesh,
    put_batch as put_batch,
    put_everywhere as put_everywhere,
    replicated as replicated,
)
