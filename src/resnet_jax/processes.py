"""What a process knows of its machine."""

import glob
import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from typing import Any

import jax
import jax.extend

from resnet_jax.environment import describe_environment

_PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "optax", "numpy", "grain", "deep-residual-jax")
# What an accelerator's driver makes, and the extra of this package that uses it.
_DRIVERS = {"cuda": "/dev/nvidia[0-9]*", "tpu": "/dev/accel[0-9]*"}


def describe_process() -> dict[str, Any]:
    """What this process runs on, as a JSON-able dict.

    Returns:
      process (its number), host, platform, accelerator (the extra for one that the host has, or None), versions (by
      package; "runtime" is that of CUDA or the TPU), cores, memory_bytes (of the machine, or what its container may
      use), compilation_cache, and devices, a list of {"kind", "memory_bytes" (None where it does not say)}.
    """
    environment = describe_environment()
    return {
        "process": jax.process_index(),
        "host": socket.gethostname(),
        "platform": environment["platform"],
        "accelerator": next((extra for extra, files in _DRIVERS.items() if glob.glob(files)), None),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
            "runtime": " ".join(jax.extend.backend.get_backend().platform_version.split()),
        },
        "cores": environment["cores"],
        "memory_bytes": _memory_bytes(),
        "compilation_cache": environment["compilation_cache"],
        "devices": [
            {"kind": device.device_kind, "memory_bytes": (device.memory_stats() or {}).get("bytes_limit")}
            for device in jax.local_devices()
        ],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return min(whole, int(allowed)) if allowed.isdecimal() else whole
