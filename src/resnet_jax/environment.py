"""Where a figure was measured: without this, no figure can be compared with another one."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib.version


def describe_environment() -> dict[str, Any]:
    """The date, the hardware and the versions, as a JSON-able dict.

    `fake_devices` says that one CPU poses as several devices, which share its cores: fit for tests of correctness, and
    for no statement about speed. `compilation_cache` is the folder of the persistent cache, or None when it is off.
    """
    devices = jax.devices()
    cached = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "processes": jax.process_count(),
        "fake_devices": devices[0].platform == "cpu" and jax.local_device_count() > 1,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "flax": flax.__version__,
        "compilation_cache": jax.config.jax_compilation_cache_dir if cached else None,  # pyright: ignore[reportAttributeAccessIssue]
    }


def environment_lines(environment: dict[str, Any]) -> list[str]:
    """Writes the date, the hardware and the versions of `describe_environment` for people."""
    return [
        f"date      {environment['date']}",
        f"hardware  {environment['devices']} × {environment['device']} ({environment['platform']}), "
        f"{environment['cpu']}, {environment['cores']} cores",
        "versions  " + ", ".join(f"{name} {environment[name]}" for name in ("python", "jax", "jaxlib", "flax")),
    ]


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
