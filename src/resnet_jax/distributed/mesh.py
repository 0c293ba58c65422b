"""The mesh of devices, and how arrays lie on it. This file alone knows devices."""

from collections import Counter
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from resnet_jax.distributed.machine import check_devices
from resnet_jax.errors import InputError

# A batch is sharded over both axes; parameters and the optimiser's state over "fsdp" only.
AXES = ("data", "fsdp")


def make_mesh(data: int | None = None, fsdp: int = 1) -> Mesh:
    """A mesh of data x fsdp devices, in the order of processes: neighbours along "fsdp" are on one host where possible.

    Args:
      data: devices along "data"; by default as many as there are.
      fsdp: devices that share one copy of the parameters and of the optimiser's state.

    Raises:
      InputError: the devices do not make such a mesh, or the processes would not all have as many of its devices.
    """
    check_devices()
    available = jax.device_count()
    if data is None:
        if available % fsdp:
            raise InputError(f"mesh.fsdp is {fsdp}, which does not divide the {available} devices")
        data = available // fsdp
    wanted = data * fsdp
    if wanted > available or (jax.process_count() > 1 and wanted < available):
        times = f" times mesh.fsdp={fsdp}" if fsdp > 1 else ""
        have = f"{available} are available"
        if wanted < available:
            have = f"the {jax.process_count()} processes have {available}"
        raise InputError(f"mesh.data={data}{times} asks for {wanted} devices, but {have}")
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        found = ", ".join(f"process {process} has {count}" for process, count in sorted(counts.items()))
        raise InputError(f"{found} devices: give every process the same number of them")
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices[:wanted]).reshape(data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def check_divides(mesh: Mesh, batch_size: int, field: str, *, grad_accum_steps: int = 1) -> None:
    """Refuses a batch of `grad_accum_steps` microbatches that cannot be sharded evenly over the mesh: an InputError
    names the field that holds the batch size, and sizes that would do.
    """
    unit = mesh.size * grad_accum_steps
    if batch_size % unit:
        below = batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        times = f" times grad_accum_steps={grad_accum_steps}" if grad_accum_steps > 1 else ""
        raise InputError(
            f"{field}={batch_size} cannot be divided by {mesh.size} devices{times}: use a size such as {near}"
        )


def put_batch(mesh: Mesh, arrays: Any) -> Any:
    """Puts this host's rows of a batch, a tree of NumPy arrays, on its devices; returns arrays of the whole batch."""
    sharding = batch_sharded(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), arrays)


def put_everywhere(mesh: Mesh, arrays: Any) -> Any:
    """Puts a tree of arrays, the same ones on every host, on all devices."""
    sharding = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(arrays, sharding)
    # `device_put` would compare them between hosts, by collecting every host's copy on each one.
    arrays = jax.tree.map(np.asarray, arrays)
    return jax.tree.map(lambda each: jax.make_array_from_callback(each.shape, sharding, each.__getitem__), arrays)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis is sharded evenly over all devices."""
    return NamedSharding(mesh, P(AXES))


def fsdp_specs(mesh: Mesh, tree: Any) -> Any:
    """How each array of a tree is sharded over "fsdp": along the largest axis that divides, or not at all."""
    count = mesh.shape["fsdp"]

    def spec(leaf: Any) -> P:
        axes = [axis for axis, size in enumerate(leaf.shape) if size and size % count == 0]
        if count == 1 or not axes:
            return P()
        return P(*[None] * max(axes, key=lambda axis: leaf.shape[axis]), "fsdp")

    return jax.tree.map(spec, tree)


def fsdp_shardings(mesh: Mesh, tree: Any) -> Any:
    """`fsdp_specs` as shardings."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), fsdp_specs(mesh, tree))


def gather(specs: Any, shards: Any) -> Any:
    """Inside `jax.shard_map`: whole arrays from the shards of them that `fsdp_specs` gave each device."""

    def whole(spec: P, shard: jax.Array) -> jax.Array:
        return jax.lax.all_gather(shard, "fsdp", axis=spec.index("fsdp"), tiled=True) if "fsdp" in spec else shard

    return jax.tree.map(whole, specs, shards)


def reduce_scatter(specs: Any, arrays: Any) -> Any:
    """Inside `jax.shard_map`: the sum of each array over all devices, of which a device keeps what `specs` give it."""

    def scattered(spec: P, array: jax.Array) -> jax.Array:
        if "fsdp" not in spec:
            return array
        return jax.lax.psum_scatter(array, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)

    leaves, structure = jax.tree.flatten(jax.tree.map(scattered, specs, arrays))
    sharded = ["fsdp" in spec for spec in jax.tree.leaves(specs)]
    # All at once, for XLA to make one reduction of them.
    for chosen, axes in ((False, AXES), (True, "data")):
        indices = [i for i, each in enumerate(sharded) if each == chosen]
        for i, total in zip(indices, jax.lax.psum([leaves[i] for i in indices], axes), strict=True):
            leaves[i] = total
    return jax.tree.unflatten(structure, leaves)
