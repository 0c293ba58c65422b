"""Devices: the mesh and the two shardings that data parallelism needs. This file alone knows devices."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from resnet_jax.errors import InputError


def make_mesh(devices: int | None = None) -> Mesh:
    """A one-dimensional mesh, axis "data", over the first `devices` devices (all of them by default).

    Raises:
      InputError: there are fewer devices.
    """
    available = jax.device_count()
    devices = devices or available
    if devices > available:
        raise InputError(f"config.mesh.data asks for {devices} devices, but {available} are available")
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def check_divides(mesh: Mesh, batch_size: int, field: str) -> None:
    """Refuses a batch that the mesh cannot cut into equal parts.

    Raises:
      InputError: names the field that holds the batch size, and sizes that would do.
    """
    devices = mesh.size
    if batch_size % devices:
        below = batch_size // devices * devices
        near = f"{below} or {below + devices}" if below else f"{devices}"
        raise InputError(f"{field}={batch_size} cannot be divided by {devices} devices: use a size such as {near}")


def put_batch(mesh: Mesh, arrays: Any) -> Any:
    """Puts this host's part of a batch, a tree of NumPy arrays, on its devices; returns arrays of the whole batch."""
    place = batch_sharded(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(place, array), arrays)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis is cut into equal parts, one for each device."""
    return NamedSharding(mesh, P("data"))
