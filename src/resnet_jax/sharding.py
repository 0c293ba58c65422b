"""Devices and processes: the mesh, the shardings, and the start of a run on several hosts. This file alone knows
devices.
"""

import importlib.util
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resnet_jax.environment import check_devices
from resnet_jax.errors import InputError, LostError, Stopped
from resnet_jax.supervisor import joined

# A batch is cut over both axes; parameters and the optimiser's state over "fsdp" only.
AXES = ("data", "fsdp")

# A process that has not been heard of for so many seconds is lost.
HEARTBEAT_SECONDS = 30

# What is wrong is often wrong for all of them, and each says so.
_SECONDS_TO_SAY_WHY = 5

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_GKE = ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")


def start_processes(distributed: str | None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process to the others of a run; call it before anything else of JAX.

    Args:
      distributed: how they find each other. "slurm": processes that srun started. "tpu": the hosts of a Cloud TPU
        slice. "gke": the pods of a TPU slice on GKE. "HOST:PORT": the address of process 0, anywhere. None: this
        process is alone.
      num_processes, process_id: with "HOST:PORT", how many there are and which one this is, from 0 on.

    Raises:
      InputError: says what is missing. Where the others do not come within five minutes JAX ends this process (see
        `supervisor`).
    """
    explicit = distributed is not None and ":" in distributed
    if not explicit and (num_processes is not None or process_id is not None):
        raise InputError("--num_processes and --process_id go with --distributed=HOST:PORT, the address of process 0")
    if distributed is None:
        return
    if explicit:
        _check_address(distributed, num_processes, process_id)
        where: dict[str, Any] = {
            "coordinator_address": distributed,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    elif distributed == "slurm":
        _check_environment("slurm", _SLURM, "start the command with srun, inside a job")
        where = {"cluster_detection_method": "slurm"}
    elif distributed in ("tpu", "gke"):
        if importlib.util.find_spec("libtpu") is None:
            raise InputError(f"--distributed={distributed} needs libtpu: install the extra, .[tpu]")
        if distributed == "gke":
            _check_environment("gke", _GKE, "start the command in a pod that GKE gave TPUs, or pass HOST:PORT")
        where = {"cluster_detection_method": {"tpu": "gcetpu", "gke": "gketpu"}[distributed]}
    else:
        raise InputError(f"--distributed is {distributed!r}, but it must be slurm, tpu, gke or HOST:PORT")
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except Exception as error:  # of gRPC, the metadata server, or JAX's own detection
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--distributed={distributed}: the processes of the run did not find each other: {said}"
        ) from error


@contextmanager
def processes(
    distributed: str | None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """`start_processes`, and leaves the others in a way that each of them can end as it has to.

    When process 0 is gone, so is what JAX's processes meet at, and every other one is ended.

    Raises:
      LostError: a collective failed, because the process at its other end is gone. Where none is under way nothing is
        raised: JAX ends this process when it has not heard of another one for HEARTBEAT_SECONDS (see `supervisor`).
    """
    start_processes(distributed, num_processes, process_id)
    joined()
    try:
        yield
    except Exception as error:
        # JAX raises the one or the other, by where it waits for the collective.
        failed = isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and re.search("Gloo|NCCL", str(error))
        if failed and not isinstance(error, InputError):
            raise LostError(str(error).strip().splitlines()[0]) from error
        # `jax.process_index` would start the devices, which may be what is wrong.
        if jax.distributed.is_initialized() and global_state.process_id == 0:
            time.sleep(_SECONDS_TO_SAY_WHY)
        raise
    except Stopped:
        _leave()
        raise
    else:
        _leave()


def _leave() -> None:
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _check_address(address: str, num_processes: int | None, process_id: int | None) -> None:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d+", address):
        raise InputError(
            f"--distributed={address} is no address: it must be HOST:PORT of process 0, such as node1:9876"
        )
    if num_processes is None or process_id is None:
        given = {"--num_processes": num_processes, "--process_id": process_id}
        wanted = " and ".join(name for name, value in given.items() if value is None)
        raise InputError(f"--distributed={address} needs {wanted}: how many processes there are, and which one this is")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process_id is {process_id}, but it must be from 0 to {num_processes - 1}")


def _check_environment(name: str, variables: tuple[str, ...], advice: str) -> None:
    missing = [variable for variable in variables if variable not in os.environ]
    if missing:
        raise InputError(f"--distributed={name} needs {', '.join(missing)} in the environment: {advice}")


def make_mesh(data: int | None = None, fsdp: int = 1) -> Mesh:
    """A mesh of data x fsdp devices, in the order of processes: neighbours along "fsdp" are on one host where possible.

    Args:
      data: devices along "data"; by default as many as there are.
      fsdp: devices that share one copy of the parameters and of the optimiser's state.

    Raises:
      InputError: the devices do not make such a mesh, or those of some process would be left out.
    """
    check_devices()
    available = jax.device_count()
    if data is None:
        if available % fsdp:
            raise InputError(f"config.mesh.fsdp is {fsdp}, which does not divide the {available} devices")
        data = available // fsdp
    wanted = data * fsdp
    product = f"config.mesh.data={data}" + (f" times config.mesh.fsdp={fsdp}" if fsdp > 1 else "")
    if wanted > available:
        raise InputError(f"{product} asks for {wanted} devices, but {available} are available")
    if jax.process_count() > 1 and wanted < available:
        raise InputError(
            f"{product} asks for {wanted} devices, but the {jax.process_count()} processes have {available}"
        )
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices[:wanted]).reshape(data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def check_divides(
    mesh: Mesh, batch_size: int, field: str, *, accumulate: int = 1, group_size: int | None = None
) -> None:
    """Refuses a batch that the mesh cannot cut into equal parts.

    Args:
      mesh: cuts the batch.
      batch_size: over all devices.
      field: that holds the batch size.
      accumulate: parts of the batch that follow one another.
      group_size: of batch-norm statistics.

    Raises:
      InputError: names the field, and sizes that would do.
    """
    parts = mesh.size * accumulate
    if batch_size % parts:
        below = batch_size // parts * parts
        near = f"{below} or {below + parts}" if below else f"{parts}"
        times = f" times config.train.accumulate={accumulate}" if accumulate > 1 else ""
        raise InputError(
            f"{field}={batch_size} cannot be divided by {mesh.size} devices{times}: use a size such as {near}"
        )
    if group_size is None:
        return
    images = batch_size // parts
    spans = accumulate == 1 and group_size % images == 0 and mesh.size % (group_size // images) == 0
    if images % group_size and not spans:
        raise InputError(
            f"config.model.group_size={group_size} does not fit the {images} images that each of {mesh.size} devices "
            f"has at a time: use a divisor of {images}"
            + ("" if accumulate > 1 else f", or {images} times a divisor of {mesh.size}")
        )


def put_batch(mesh: Mesh, arrays: Any) -> Any:
    """Puts this host's part of a batch, a tree of NumPy arrays, on its devices; returns arrays of the whole batch."""
    place = batch_sharded(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(place, array), arrays)


def put_everywhere(mesh: Mesh, arrays: Any) -> Any:
    """Puts a tree of arrays, the same ones on every host, on all devices."""
    place = replicated(mesh)

    def put(array: Any) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, place, lambda index: array[index])

    # `device_put` would compare them between hosts, by collecting every host's copy on each one.
    return jax.tree.map(put, arrays) if jax.process_count() > 1 else jax.device_put(arrays, place)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis is cut into equal parts, one for each device."""
    return NamedSharding(mesh, P(AXES))


def fsdp_specs(mesh: Mesh, tree: Any) -> Any:
    """How each array of a tree is cut over "fsdp": along the largest axis that divides, or not at all."""
    parts = mesh.shape["fsdp"]

    def spec(leaf: Any) -> P:
        axes = [axis for axis, size in enumerate(leaf.shape) if size and size % parts == 0]
        if parts == 1 or not axes:
            return P()
        return P(*[None] * max(axes, key=lambda axis: leaf.shape[axis]), "fsdp")

    return jax.tree.map(spec, tree)


def fsdp_shardings(mesh: Mesh, tree: Any) -> Any:
    """`fsdp_specs` as shardings."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), fsdp_specs(mesh, tree))


def gather(specs: Any, parts: Any) -> Any:
    """Inside `jax.shard_map`: whole arrays from the parts of them that `fsdp_specs` gave each device."""

    def whole(spec: P, part: jax.Array) -> jax.Array:
        return jax.lax.all_gather(part, "fsdp", axis=spec.index("fsdp"), tiled=True) if "fsdp" in spec else part

    return jax.tree.map(whole, specs, parts)


def sum_and_cut(specs: Any, arrays: Any) -> Any:
    """Inside `jax.shard_map`: the sum of each array over all devices, of which a device keeps what `specs` give it."""

    def scattered(spec: P, array: jax.Array) -> jax.Array:
        if "fsdp" not in spec:
            return array
        return jax.lax.psum_scatter(array, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)

    leaves, structure = jax.tree.flatten(jax.tree.map(scattered, specs, arrays))
    cut = ["fsdp" in spec for spec in jax.tree.leaves(specs)]
    # All at once, for XLA to make one reduction of them.
    for chosen, axes in ((False, AXES), (True, "data")):
        places = [i for i, is_cut in enumerate(cut) if is_cut == chosen]
        for i, total in zip(places, jax.lax.psum([leaves[i] for i in places], axes), strict=True):
            leaves[i] = total
    return jax.tree.unflatten(structure, leaves)
