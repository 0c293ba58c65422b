"""Where a figure was measured: without this, no figure can be compared with another one."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib.version
from jax.experimental.compilation_cache import compilation_cache

from resnet_jax.errors import InputError
from resnet_jax.files import is_remote

# XLA itself would keep files beside JAX's programs, on GPUs; it opens no addresses, and the compilation fails.
XLA_KEEPS_NOTHING = ("jax_persistent_cache_enable_xla_caches", "none")

_VERSIONS = ("python", "jax", "jaxlib", "flax", "onednn")

# Its options are declared at run time, where no type checker sees them.
_CONFIG: Any = jax.config


def describe_environment() -> dict[str, Any]:
    """The date, the hardware and the versions, as a JSON-able dict.

    `fake_devices` says that one CPU poses as several devices, whose figures tell nothing of speed. `compilation_cache`
    is the folder of the persistent cache, or None when it is off.
    """
    check_devices()
    devices = jax.devices()
    return {
        **describe_host(),
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "processes": jax.process_count(),
        "fake_devices": devices[0].platform == "cpu" and jax.local_device_count() > 1,
    }


def describe_host() -> dict[str, Any]:
    """What `describe_environment` says that needs no devices."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "flax": flax.__version__,
        "onednn": _onednn(),
        "compilation_cache": _CONFIG.jax_compilation_cache_dir if _CONFIG.jax_enable_compilation_cache else None,
    }


def environment_lines(environment: dict[str, Any]) -> list[str]:
    """Writes the date, the hardware and the versions of `describe_environment`, or `describe_host`, for people."""
    devices = "no device"
    if "device" in environment:
        devices = f"{environment['devices']} × {environment['device']} ({environment['platform']})"
    lines = [
        f"date      {environment['date']}",
        f"hardware  {devices}, {environment['cpu']}, {environment['cores']} cores",
        "versions  " + ", ".join(f"{name} {environment[name]}" for name in _VERSIONS if environment.get(name)),
        f"cache     compilation cache {environment['compilation_cache'] or 'off'}",
    ]
    if environment.get("fake_devices"):
        lines.append("fake devices: one CPU poses as several, which share its cores: no figure says how devices scale")
    return lines


def keep_programs(folder: Path) -> None:
    """Keeps what JAX compiles from now on in a folder, which is made; for a process of our own."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if is_remote(folder):
        jax.config.update(*XLA_KEEPS_NOTHING)
    compilation_cache.reset_cache()  # another one may be open


def check_devices() -> None:
    """Starts JAX's devices; an InputError where there are none, or not those that were asked for."""
    try:
        jax.devices()
        return
    except Exception as error:  # of plugins, drivers and versions that do not fit; an AssertionError without a word
        cause = error
    reason = (str(cause).strip().splitlines() or ["JAX gave no reason"])[0]
    reason = re.sub(r" \([^()]*JAX_PLATFORMS[^()]*\)$", "", reason)  # its own advice
    asked = _CONFIG.jax_platforms
    if asked:
        extra = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}.get(asked.split(",")[0])
        install = f"install the extra, pip install '.[{extra}]', where there is one; or " if extra else ""
        raise InputError(
            f"JAX_PLATFORMS={asked} asks for devices that JAX did not find or cannot use: {reason}: {install}unset "
            "JAX_PLATFORMS, and JAX chooses"
        ) from cause
    variables = [name for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES") if name in os.environ]
    advice = "see that jax, jaxlib and its plugins fit each other"
    if variables:
        advice = f"see whether {', '.join(variables)} in the environment is right"
    raise InputError(f"JAX found no device: {reason}: {advice}") from cause


def _onednn() -> str | None:
    """The version that is installed and not switched off; `models.onednn` says what it computes."""
    try:
        return importlib.metadata.version("onednn-cpu-gomp") if os.environ.get("RESNET_JAX_ONEDNN") != "0" else None
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def available_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
