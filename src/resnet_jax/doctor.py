"""Whether these machines can train together, and how fast they pass data: the command `resnet-jax doctor`."""

import json
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from resnet_jax import terminal
from resnet_jax.benchmark.transfers import measure_all_reduce, measure_transfers
from resnet_jax.environment import describe_environment, describe_host, environment_lines, find_devices
from resnet_jax.errors import InputError
from resnet_jax.files import expanded
from resnet_jax.hosts import examine_folder, exchange
from resnet_jax.processes import describe_process

GRADES = ("ok", "attention", "impossible")

# Values that all devices sum up: mean and variance of a layer of 512 channels, and the gradient of a ResNet-50.
STATISTICS, GRADIENT = 1024, 25_557_032


class Finding(NamedTuple):
    """What a check says: its name, one of `GRADES`, what was found, and what to do about it ("" where all is well)."""

    check: str
    grade: str
    says: str
    advice: str = ""


def examine(
    workdir: str | os.PathLike[str] | None = None,
    *,
    transfer_bytes: int = 2**26,
    values: Sequence[int] | None = None,
    rounds: int = 5,
) -> dict[str, Any]:
    """Examines the devices, the versions, the workdir and the connections of all processes, which call it together.

    Args:
      workdir: of the run that is to be trained; it need not exist. None: it is not examined.
      transfer_bytes: that are put on a device, and read from it.
      values: float32 values in an all-reduce, for each one that is measured. By default `STATISTICS` and `GRADIENT`,
        and on CPU devices, whose figures say nothing about a pod, a million instead of a gradient.
      rounds: timed, after one that is not.

    Returns:
      a JSON-able dict, on every process the same but for times of its own: "environment" (of this process), "grade"
      (the worst one), and
        findings: dicts of `Finding`;
        processes: `describe_process` of each one, in order; its devices have also "host_to_device" and
          "device_to_host", bytes per second (medians; measured in all processes at the same time);
        all_reduces: dicts of `measure_all_reduce`, of which "right" is of all processes; empty with one device;
        workdir: None, or a dict of path, free_bytes, writable and shared.
      Where a finding is "impossible", nothing more is measured on devices: these bandwidths are missing. Where JAX has
      no devices, that is the only finding.

    Raises:
      InputError: the workdir is a URL, or the processes are not connected.
      LostError: one of them does not answer.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}, but it must be at least 1")
    folder = None if workdir is None else expanded(workdir, "--workdir")
    if missing := find_devices():
        finding = Finding("devices", "impossible", *missing)
        return _result(describe_host() | {"fake_devices": False}, [finding], [])
    processes = exchange(describe_process())
    examined = finding = None
    if folder is not None:
        examined, finding = _examine_workdir(folder, [each["host"] for each in processes])
    findings = judge(processes, finding)

    all_reduces: list[dict[str, Any]] = []
    if not any(finding.grade == "impossible" for finding in findings):
        measured = exchange([measure_transfers(device, transfer_bytes, rounds) for device in jax.local_devices()])
        for process, transfers in zip(processes, measured, strict=True):
            for device, speeds in zip(process["devices"], transfers, strict=True):
                device.update(speeds)
        findings.append(_transfer_speeds(processes))
        if jax.device_count() > 1:
            if values is None:
                values = (STATISTICS, 2**20 if jax.default_backend() == "cpu" else GRADIENT)
            all_reduces = [measure_all_reduce(count, rounds) for count in values]
            findings.append(_sums(all_reduces, processes))
    return _result(describe_environment(), findings, processes, all_reduces, examined)


def _result(
    environment: dict[str, Any],
    findings: list[Finding],
    processes: list[dict[str, Any]],
    all_reduces: Sequence[dict[str, Any]] = (),
    workdir: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "environment": environment,
        "grade": max((finding.grade for finding in findings), key=GRADES.index),
        "findings": [finding._asdict() for finding in findings],
        "processes": processes,
        "all_reduces": list(all_reduces),
        "workdir": workdir,
    }


def judge(processes: list[dict[str, Any]], workdir: Finding | None = None) -> list[Finding]:
    """What the descriptions of all processes say by themselves, before anything is measured.

    Args:
      processes: `describe_process` of each one, in order.
      workdir: what was found of the workdir; None where none was given.
    """
    findings = [_versions(processes), _devices(processes), _platform(processes), _alone(processes), _cores(processes)]
    if workdir is not None:
        findings.append(workdir)
    elif len(processes) > 1:
        findings.append(Finding("workdir", "attention", "not examined", "give --workdir=DIR, which all must share"))
    return [*findings, _cache(processes)]


def _versions(processes: list[dict[str, Any]]) -> Finding:
    first = processes[0]["versions"]
    differing = {
        name: Counter(str(each["versions"][name]) for each in processes)
        for name in first
        if any(each["versions"][name] != first[name] for each in processes)
    }
    if not differing:
        return Finding("versions", "ok", f"the same in {_counted(len(processes), 'process')}")
    said = "; ".join(
        f"{name} is " + ", ".join(f"{version} in {count}" for version, count in found.items())
        for name, found in differing.items()
    )
    return Finding("versions", "impossible", f"they differ: {said}", "install the same versions on every host")


def _devices(processes: list[dict[str, Any]]) -> Finding:
    counts = {f"{each['process']} ({each['host']})": len(each["devices"]) for each in processes}
    kinds = Counter(device["kind"] for each in processes for device in each["devices"])
    if len(set(counts.values())) > 1:
        usual = Counter(counts.values()).most_common(1)[0][0]
        odd = ", ".join(f"process {name} has {count}" for name, count in counts.items() if count != usual)
        advice = "give every process the same number of devices, or leave that host out"
        return Finding("devices", "impossible", f"{odd}, the others have {usual} devices", advice)
    said = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    if len(kinds) > 1:
        return Finding("devices", "attention", said, "devices of one kind: all wait for the slowest one")
    return Finding("devices", "ok", f"{said}, {next(iter(counts.values()))} in each process")


def _platform(processes: list[dict[str, Any]]) -> Finding:
    """Whether an accelerator of this host is left unused."""
    unused = [each for each in processes if each["platform"] == "cpu" and each["accelerator"]]
    if unused:
        host, extra = unused[0]["host"], unused[0]["accelerator"]
        advice = f"install the extra, pip install '.[{extra}]', and see that JAX_PLATFORMS does not say cpu"
        return Finding("platform", "attention", f"{host} has an accelerator, but JAX uses its CPU", advice)
    return Finding("platform", "ok", ", ".join(sorted({each["platform"] for each in processes})))


def _alone(processes: list[dict[str, Any]]) -> Finding:
    """Whether a launcher has started several processes that know nothing of each other."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    started, how = (int(tasks), "slurm") if tasks.isdecimal() and int(tasks) > 1 else (workers, "gke")
    if len(processes) == 1 and started > 1:
        said = f"this process is alone, but the launcher started {started}"
        return Finding("processes", "attention", said, f"give --distributed={how}; else each trains by itself")
    hosts = len({each["host"] for each in processes})
    said = f"{_counted(len(processes), 'process')} on {_counted(hosts, 'host')}"
    return Finding("processes", "ok", said)


def _cores(processes: list[dict[str, Any]]) -> Finding:
    """Cores decode photographs: a process with fewer than 4 for each of its accelerators has a slow input."""
    fed = [each for each in processes if each["platform"] != "cpu"] or processes
    fewest = min(fed, key=lambda each: each["cores"] / len(each["devices"]))
    said = f"at least {fewest['cores']} cores for {_counted(len(fewest['devices']), 'device')} of a process"
    if fewest["platform"] != "cpu" and fewest["cores"] < 4 * len(fewest["devices"]):
        advice = "measure with resnet-jax benchmark input; resnet-jax prepare cache spares the decoding"
        return Finding("cores", "attention", said, advice)
    return Finding("cores", "ok", said)


def _cache(processes: list[dict[str, Any]]) -> Finding:
    if len(processes) > 1 and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Finding("compilation cache", "ok", "in the workdir, where several processes train")
    without = [each["host"] for each in processes if not each["compilation_cache"]]
    if without:
        advice = "set JAX_COMPILATION_CACHE_DIR: a restart then needs no compilation"
        return Finding("compilation cache", "attention", f"off on {', '.join(sorted(set(without)))}", advice)
    return Finding("compilation cache", "ok", ", ".join(sorted({each["compilation_cache"] for each in processes})))


def _examine_workdir(workdir: Path, hosts: list[str]) -> tuple[dict[str, Any], Finding]:
    """What the result says of the workdir, and the finding."""
    # A workdir that does not exist yet is not made: its nearest folder stands for it. Path.exists would raise an error
    # where a folder above must not be read.
    folder = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if os.path.exists(path))
    errors, unseen = examine_folder(folder)
    free = None if any(errors) else shutil.disk_usage(folder).free
    strangers = [process for process, missing in enumerate(unseen) if missing]
    examined = {"path": str(workdir), "free_bytes": free, "writable": not any(errors), "shared": not strangers}
    if any(errors):
        process, error = next((process, each) for process, each in enumerate(errors) if each)
        said = f"{hosts[process]} cannot write to {folder}: {error}"
        return examined, Finding("workdir", "impossible", said, "give a folder that every process may write to")
    if strangers:
        process = strangers[-1]
        said = f"{hosts[process]} (process {process}) does not see what process {unseen[process][0]} writes to {folder}"
        advice = "give a folder on a file system that all hosts share (NFS, Lustre, Filestore), mounted on each"
        return examined, Finding("workdir", "impossible", said, advice)
    shared = "" if len(hosts) == 1 else f" and shared by {len(hosts)} processes"
    said = f"{folder} is writable{shared}, {_gibibytes(free)} GiB free"
    if free is not None and free < 5 * 2**30:
        return examined, Finding("workdir", "attention", said, "free some space: checkpoints need a few GiB")
    return examined, Finding("workdir", "ok", said)


def _transfer_speeds(processes: list[dict[str, Any]]) -> Finding:
    speeds = [(device["host_to_device"], each) for each in processes for device in each["devices"]]
    slowest, process = min(speeds, key=lambda pair: pair[0])
    median = statistics.median(speed for speed, _ in speeds)
    said = f"{_giga(slowest)} to {_giga(max(speed for speed, _ in speeds))} GB/s from host to device"
    # Fake devices share the cores of one CPU.
    if process["platform"] != "cpu" and slowest < median / 2:
        advice = f"examine the devices of {process['host']}: one has less than half of what is usual here"
        return Finding("transfers", "attention", said, advice)
    return Finding("transfers", "ok", said)


def _sums(all_reduces: list[dict[str, Any]], processes: list[dict[str, Any]]) -> Finding:
    """Judges the last one, a gradient; each entry becomes right only where it is so in every process."""
    rights = exchange([each["right"] for each in all_reduces])
    for i, each in enumerate(all_reduces):
        each["right"] = all(right[i] for right in rights)
    wrong = [process["host"] for process, right in zip(processes, rights, strict=True) if not all(right)]
    if wrong:
        said = f"devices of {', '.join(sorted(set(wrong)))} hold wrong sums"
        return Finding("all-reduce", "impossible", said, "leave these hosts out, and have their devices examined")
    speed = all_reduces[-1]["bus_bandwidth"]
    said = f"right in every device, {_giga(speed)} GB/s on the bus"
    if processes[0]["platform"] == "cpu":
        return Finding("all-reduce", "ok", said + " (of CPU devices: this says nothing about a pod)")
    if speed < 5e9:
        advice = "see that the fast network is used: with GPUs, NCCL_DEBUG=INFO says which one NCCL has found"
        return Finding("all-reduce", "attention", said, advice)
    return Finding("all-reduce", "ok", said)


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """Prints the dict of `examine` on process 0.

    Raises:
      InputError: something makes training impossible; on every process.
    """
    if not result["processes"] or jax.process_index() == 0:  # without devices there is no index
        print(json.dumps(result, indent=2) if as_json else render(result), flush=True)
    wrong = [f"{each['check']}: {each['says']}" for each in result["findings"] if each["grade"] == "impossible"]
    if wrong:
        raise InputError(f"training is impossible here; {'; '.join(wrong)}")


def render(result: dict[str, Any]) -> str:
    """Writes the dict of `examine` for people: the environment, the processes, the all-reduces and the findings."""
    processes, reduces = [], []
    for each in result["processes"]:
        devices = each["devices"]
        kinds = Counter(device["kind"] for device in devices)
        processes.append(
            (
                str(each["process"]),
                each["host"],
                ", ".join(f"{count} × {kind}" for kind, count in kinds.items()),
                _gibibytes(devices[0]["memory_bytes"]),
                *(_span([device.get(way) for device in devices]) for way in ("host_to_device", "device_to_host")),
                str(each["cores"]),
                _gibibytes(each["memory_bytes"]),
            )
        )
    for each in result["all_reduces"]:
        speeds = (_giga(each[f"{name}_bandwidth"]) for name in ("algorithm", "bus"))
        right = "right" if each["right"] else "WRONG"
        reduces.append((f"{each['bytes'] // 4:,}", f"{each['seconds'] * 1e3:,.3f}", *speeds, right))

    lines = [*environment_lines(result["environment"])]
    if result["environment"]["fake_devices"]:
        lines.append("fake devices: one CPU poses as several, which share its cores; no figure here is one of a pod")
    machine = ("memory of each (GiB)", "to device (GB/s)", "to host (GB/s)", "cores", "memory (GiB)")
    reduction = ("float32 values", "time (ms)", "algorithm (GB/s)", "bus (GB/s)", "sum")
    lines.append("")
    if processes:
        lines += [terminal.table(("process", "host", "devices", *machine), processes, "processes", 3), ""]
    if reduces:
        lines += [terminal.table(reduction, reduces, "all-reduce", 0), ""]
    for each in result["findings"]:
        lines.append(f"{each['grade']:10}  {each['check']}: {each['says']}")
        if each["advice"]:
            lines.append(f"{'':10}  -> {each['advice']}")
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    plural = {"process": "processes"}.get(noun, noun + "s")
    return f"{count} {noun if count == 1 else plural}"


def _giga(value: float) -> str:
    return f"{value / 1e9:.3g}"


def _gibibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**30:,.0f}"


def _span(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = (_giga(pick(known)) for pick in (min, max)) if known else ("", "")
    return low if low == high else f"{low} – {high}"
