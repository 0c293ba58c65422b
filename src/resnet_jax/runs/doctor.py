"""Whether a run can begin here: the command `resnet-jax doctor`, which makes the checks of `train` and no step."""

import contextlib
import glob
import importlib.metadata
import os
import platform
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend

from resnet_jax.configs.base import Config
from resnet_jax.data import shared_memory, small, stream
from resnet_jax.data.images import NAMES, open_images
from resnet_jax.distributed import agreement
from resnet_jax.distributed.machine import check_devices, describe_environment, describe_host, environment_lines
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.files import check_bucket, expanded, is_remote
from resnet_jax.runs import build, checks, config_file, starting, storage_checks
from resnet_jax.runs.workdir import claim

GRADES = ("ok", "attention", "impossible")
_PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "optax", "numpy", "grain", "deep-residual-jax")
# What an accelerator's driver makes, and the extra of this package that uses it.
_DRIVERS = {"cuda": "/dev/nvidia[0-9]*", "tpu": "/dev/accel[0-9]*"}


class Finding(NamedTuple):
    """What a check found, as one of `GRADES` and in words, and what to do about it ("" where all is well)."""

    check: str
    grade: str
    says: str
    advice: str = ""


class _Data(NamedTuple):
    """What a network's size depends on: how many classes the data have, and (height, width, channels) of an image."""

    num_classes: int
    image_shape: tuple[int, ...]


def examine(workdir: str | os.PathLike[str] | None = None, config: Config | None = None) -> dict[str, Any]:
    """Checks what `train` checks before it trains, on all processes together; leaves nothing behind.

    Process 0 also measures the workdir, or the nearest folder above it, and how photographs are read, which takes some
    seconds; see `storage_checks`.

    Returns:
      a JSON-able dict, the same on every process: "environment" (of process 0), "grade" (the worst one) and "findings",
      dicts of `Finding`. Where JAX has no devices, that is the only finding.

    Raises:
      InputError: the workdir is a URL, or the processes are not connected.
      PeerLostError: one of them does not answer.
    """
    folder = None if workdir is None else expanded(workdir, "--workdir", remote=True)
    devices = _look("devices", _devices)
    if devices.grade == "impossible":
        return {"environment": describe_host(), "grade": devices.grade, "findings": [devices._asdict()]}
    looks: dict[str, Callable[[], tuple[str, str]]] = {"processes": _processes, "versions": _versions}
    data: list[_Data] = []
    if config is not None:
        config = config.copy_and_resolve_references()
        looks |= {"weights": lambda: _weights(config, folder)} if config.init.weights is not None else {}
        looks |= {"config": lambda: _config(config), "data": lambda: _data(config, data)}
    looks["mesh"] = lambda: _mesh(config)
    if folder is not None:
        looks["workdir"] = lambda: _workdir(folder, config, _checkpoint_bytes(config, data))
    # Every process makes every check, since some of them wait for each other.
    own = [devices, *(_look(name, check) for name, check in looks.items())]
    said = agreement.exchange([describe_environment(), own])
    findings = [_together([Finding(*each) for each in same]) for same in zip(*(each[1] for each in said), strict=True)]
    grade = max((finding.grade for finding in findings), key=GRADES.index)
    return {"environment": said[0][0], "grade": grade, "findings": [finding._asdict() for finding in findings]}


def _look(name: str, check: Callable[[], tuple[str, str]]) -> Finding:
    try:
        says, advice = check()
    except InputError as error:
        return Finding(name, "impossible", str(error))
    return Finding(name, "attention" if advice else "ok", says, advice)


def _together(said: Sequence[Finding]) -> Finding:
    """The worst of what the processes say of one check, and which of them say it."""
    worst = max(said, key=lambda each: GRADES.index(each.grade))
    processes = [process for process, each in enumerate(said) if each.grade == worst.grade]
    if len(processes) == len(said):
        return worst
    return worst._replace(says=f"process {', '.join(map(str, processes))}: {worst.says}")


def _devices() -> tuple[str, str]:
    check_devices()
    kinds = Counter(device.device_kind for device in jax.devices())
    says = ", ".join(f"{count} × {kind}" for kind, count in kinds.items()) + f" ({jax.default_backend()})"
    extra = next((extra for extra, files in _DRIVERS.items() if glob.glob(files)), None)
    if jax.default_backend() == "cpu" and extra:
        advice = f"install the extra, pip install '.[{extra}]', and see that JAX_PLATFORMS does not say cpu"
        return f"{says}, but {socket.gethostname()} has an accelerator", advice
    return says, "devices of one kind: all wait for the slowest one" if len(kinds) > 1 else ""


def _processes() -> tuple[str, str]:
    # A launcher may have started several that know nothing of each other.
    count, machines = jax.process_count(), len(set(agreement.exchange(socket.gethostname())))
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    started, how = (int(tasks), "slurm") if tasks.isdecimal() and int(tasks) > 1 else (workers, "gke")
    if count == 1 and started > 1:
        advice = f"give --distributed={how}; else each trains by itself"
        return f"this process is alone, but the launcher started {started}", advice
    return f"{count} on {machines} host{'s' if machines > 1 else ''}", ""


def _versions() -> tuple[str, str]:
    runtime = " ".join(jax.extend.backend.get_backend().platform_version.split())
    packages = {each.name: each.version for each in importlib.metadata.distributions() if each.name in _PACKAGES}
    facts = {"python": platform.python_version(), **packages, "runtime": runtime}
    agreement.check_same("versions", facts, "install the same ones on every host")
    return f"the same in all processes; {runtime}", ""


def _weights(config: Config, folder: Path | None) -> tuple[str, str]:
    """Also gives the config's fields that are None the values that a run would have of the weights."""
    says, resolved = ["the run has begun, and needs them no more"], config
    # As process 0 sees them, for what follows is made together.
    claimed, saved = agreement.exchange(agreement.together(lambda: _seen(folder)))[0]
    if folder is not None and claimed:
        resolved = agreement.together(lambda: starting.as_begun(config, folder))
    if not saved:  # as a run that was killed before its first checkpoint
        resolved = starting.resolved(resolved, starting.read(config.init.weights, says.append))
    config.update(resolved)
    return says[-1], ""


def _seen(folder: Path | None) -> tuple[bool, bool]:
    """Whether a folder is the workdir of a run, and whether that has a checkpoint."""
    # Path.exists would raise where a folder must not be read.
    there = folder is not None and (
        (folder / "config.json").exists() if is_remote(folder) else os.path.exists(folder / "config.json")
    )
    if folder is None or not there:
        return False, False
    return True, any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))


def _config(config: Config) -> tuple[str, str]:
    config_file.check_same(config)
    checks.check(config)
    return "every field has a value that it can have", ""


def _data(config: Config, known: list[_Data]) -> tuple[str, str]:
    """Also adds what it finds to `known`."""
    name, folder = config.dataset.name, config.dataset.data_dir
    if name not in NAMES:
        dataset = small.load(name, folder, config.dataset.validation_images)
        known.append(_Data(len(dataset.class_names), dataset.train.images.shape[1:]))
        return f"{len(dataset.train)} images to train on", ""
    images, size, workers = open_images(name, folder), config.train.batch_size, build.workers(config)
    train, side, room = images.train, config.stream.image_size, ""
    if side is not None:  # else nor is there any of the weights
        known.append(_Data(len(images.class_names), (side, side, 3)))
        how = {"seed": 0, "batch_size": size, "start": 0, "num_workers": workers}
        stream.TrainBatches(train, build.cropping(config), **how).close()  # before its workers start
        free = shared_memory.free_bytes()
        room = "" if free is None else f", {free / 2**30:,.1f} GiB free in {shared_memory.FOLDER}"
    speed, advice = storage_checks.examine_images(train) if agreement.is_lead() else ("", "")
    return f"{len(train)} photographs to train on{room}" + (speed and f"; {speed}"), advice


def _checkpoint_bytes(config: Config | None, known: Sequence[_Data]) -> int | None:
    """Of a checkpoint, where the config and the data are such that it has a size."""
    with contextlib.suppress(ValueError, KeyError):  # which other findings tell of
        return storage_checks.checkpoint_bytes(config, *known[0]) if config is not None and known else None
    return None


def _mesh(config: Config | None) -> tuple[str, str]:
    mesh = make_mesh() if config is None else build.mesh(config)
    return " × ".join(f"{name} {size}" for name, size in mesh.shape.items()), ""


def _workdir(workdir: Path, config: Config | None, checkpoint: int | None) -> tuple[str, str]:
    claimed, _ = agreement.exchange(agreement.together(lambda: _seen(workdir)))[0]
    if config is not None and claimed:
        agreement.together(lambda: claim(workdir, config))  # refuses another run's, and writes nothing
    # Of one that is not there yet the nearest folder above.
    above = [] if is_remote(workdir) else [workdir.absolute(), *workdir.absolute().parents]
    folder = next((path for path in above if os.path.exists(path)), workdir)
    agreement.together(lambda: check_bucket(folder))
    agreement.check_folder(folder)
    free = None if is_remote(folder) else shutil.disk_usage(folder).free
    own = agreement.together(
        lambda: storage_checks.examine(folder, checkpoint, free) if agreement.is_lead() else ("", "")
    )
    found, advice = agreement.exchange(own)[0]
    room = "" if free is None else f", {free / 2**30:,.0f} GiB free"
    if free is not None and free < 5 * 2**30:
        advice = "; ".join(filter(None, ("free some space: checkpoints need a few GiB", advice)))
    return f"every process can write in {folder}{room}; {found}", advice


def render(result: dict[str, Any]) -> str:
    """The dict of `examine` as text."""
    lines = [*environment_lines(result["environment"]), ""]
    for each in result["findings"]:
        lines.append(f"{each['grade']:10}  {each['check']}: {each['says']}")
        if each["advice"]:
            lines.append(f"{'':10}  -> {each['advice']}")
    return "\n".join(lines)
