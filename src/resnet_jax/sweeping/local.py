"""Points as processes of this machine, each on an accelerator of its own where there are several."""

import glob
import importlib.metadata
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from resnet_jax.errors import STOPPED, optional, warn
from resnet_jax.files import appended, is_remote, put
from resnet_jax.sweeping.runs import Run


def start_process(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts resnet-jax with a command's arguments, in a session of its own; it ends when this process ends.

    Its output goes to the end of `log`, a file, and `environment` has variables beside those of this process.
    """
    log.write(f"$ resnet-jax {shlex.join(command)}\n".encode())
    log.flush()
    return subprocess.Popen(
        [sys.executable, "-m", "resnet_jax.sweeping.child", *command],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        # Ctrl-C in a terminal reaches all of a session: without its own, a point would be told twice, and the
        # second signal ends it without a checkpoint.
        start_new_session=True,
    )


def visible_devices() -> list[dict[str, str]]:
    """The accelerators of this machine: for each the environment of a process that is to see no other one.

    They are found without starting any, which would take them from the points: NVIDIA GPUs, where JAX's CUDA plugin is
    installed, in CUDA_VISIBLE_DEVICES or else by `nvidia-smi -L` (parts of a GPU that MIG has cut up are devices of
    their own); TPU chips, where libtpu is installed, in TPU_VISIBLE_CHIPS or else as /dev/accel* and /dev/vfio/*. None
    on a CPU, or where JAX_PLATFORMS leaves them out.
    """
    platforms = set(os.environ.get("JAX_PLATFORMS", "").split(","))
    plugins = [entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")]
    cuda = {"", "cuda", "gpu"} & platforms and any("cuda" in name for name in plugins)
    if cuda and (names := _listed("CUDA_VISIBLE_DEVICES", _nvidia_devices)):
        return [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    if {"", "tpu"} & platforms and importlib.util.find_spec("libtpu"):
        bounds = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [{"TPU_VISIBLE_CHIPS": name, **bounds} for name in _listed("TPU_VISIBLE_CHIPS", _tpu_chips)]
    return []


def _listed(variable: str, find: Callable[[], list[str]]) -> list[str]:
    value = os.environ.get(variable)
    # CUDA takes no device from -1 on.
    shown = itertools.takewhile(lambda name: name.strip() != "-1", (value or "").split(","))
    return find() if value is None else [name for name in shown if name.strip()]


def _tpu_chips() -> list[str]:
    return [str(i) for i in range(len(glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")))]


def _nvidia_devices() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return re.findall(r"\(UUID: (MIG-[^)]+)\)", listed) or re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


def environments(devices: Sequence[Mapping[str, str]], jobs: int | None) -> list[dict[str, str]]:
    """The variables of each of `jobs` at the same time, see `LocalProcesses`, beside those of this process."""
    jobs = jobs or len(devices) or 1
    if jobs == 1 or not devices:
        return [{}] * jobs
    sharing, share = -(-jobs // len(devices)), {}
    if sharing > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        # Of a GPU's memory; JAX's own share of 0.75 is for a single process.
        share["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.3f}"
    return [{**devices[i % len(devices)], **share} for i in range(jobs)]


class _Job(NamedTuple):
    """A run at work, and the file that its process prints to: its log, or, where that is in a bucket, one that a thread
    copies there.
    """

    run: Run
    process: subprocess.Popen[bytes]
    printed: IO[bytes]
    copying: threading.Thread | None


class LocalProcesses:
    """Runs points as processes of this machine, `jobs` at a time.

    By default that is one for each accelerator, or one on a CPU. A single job has all accelerators; of several each has
    one, which they share where there are more jobs than accelerators.
    """

    def __init__(self, jobs: int | None):
        self._environments = environments(visible_devices(), jobs)
        self.jobs = len(self._environments)
        self._slots: dict[int, _Job] = {}

    @property
    def running(self) -> list[Run]:
        """The runs at work."""
        return [job.run for job in self._slots.values()]

    def start(self, commands: Sequence[tuple[Run, Sequence[str]]]) -> None:
        """Starts the commands of runs, at most as many as there are free jobs."""
        for run, command in commands:
            slot = min(set(range(self.jobs)) - set(self._slots))
            printed: IO[bytes] = tempfile.TemporaryFile() if is_remote(run.log) else run.log.open("ab")  # noqa: SIM115
            process, copying = start_process(command, printed, self._environments[slot]), None
            if is_remote(run.log):
                copying = threading.Thread(target=_copy, args=(process, printed, run.log), name="log", daemon=True)
                copying.start()
            self._slots[slot] = _Job(run, process, printed, copying)

    def ended(self) -> list[tuple[Run, str]]:
        """Those that have ended since the last call, each with how."""
        gone = []
        for slot, job in list(self._slots.items()):
            status = job.process.poll()
            if status is not None and not (job.copying and job.copying.is_alive()):
                del self._slots[slot]
                job.process.communicate()  # closes its pipe
                job.printed.close()
                gone.append((job.run, describe_status(status)))
        return gone

    def stop(self) -> None:
        """Asks all to save and to end."""
        for job in self._slots.values():
            job.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Asks those that are at work to save, and waits for them: without this process they would end at once."""
        self.stop()
        for job in self._slots.values():
            job.process.wait()
            if job.copying:
                job.copying.join()


def _copy(process: subprocess.Popen[bytes], printed: IO[bytes], path: Path) -> None:
    """Brings what a process prints to its log in a bucket, every half minute and at the end."""
    log: IO[bytes] | None = None
    copied, behind, ended = 0, False, False
    while not ended:
        ended = process.poll() is not None  # asked before reading
        with optional(f"a part of {path}", warn):
            log = log or appended(path)
            # Not by `read`: the process writes where this file stands.
            new = os.pread(printed.fileno(), os.fstat(printed.fileno()).st_size - copied, copied)
            copied += len(new)
            if new or behind:
                log.write(new)
            behind = True  # until it is written
            put(log) if ended else log.flush()
            behind = False
        if not ended:
            time.sleep(1)


def describe_status(status: int) -> str:
    """An exit status as a line; negative ones are signals."""
    if status == STOPPED:
        return "it was stopped by a signal after saving"
    if status == -signal.SIGKILL:
        return "it was killed by SIGKILL, perhaps because memory had run out"
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with exit status {status} and no result"
