"""How the processes of a run find each other, and how each of them ends when another one is lost."""

import ctypes
import importlib.util
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax._src.distributed import global_state

from resnet_jax.errors import LOST, InputError, PeerLostError, Preempted, lost_peer, warn

# A process that has not been heard of for so many seconds is lost.
HEARTBEAT_SECONDS = 30

# What is wrong is often wrong for all of them, and each reports it.
_SECONDS_TO_REPORT = 5

# By value of --distributed: how JAX finds the processes, what the environment must hold, and where it does.
_CLUSTERS = {
    "slurm": (
        "slurm",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
        "start the command with srun, inside a job",
    ),
    "tpu": ("gcetpu", (), ""),
    "gke": (
        "gketpu",
        ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
        "start the command in a pod that GKE gave TPUs, or pass HOST:PORT",
    ),
}


def start_processes(distributed: str | None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process to the others of a run; call it before anything else of JAX.

    JAX ends a process that has lost another one, or not found it in five minutes, from C++: from here on with one line
    and the exit status `errors.LOST`.

    Args:
      distributed: how they find each other. "slurm": processes that srun started. "tpu": the hosts of a Cloud TPU
        slice. "gke": the pods of a TPU slice on GKE. "HOST:PORT": the address of process 0. None: this one is alone.
      num_processes, process_id: with "HOST:PORT", how many there are and which one this is, from 0 on.

    Raises:
      InputError: something is missing, or they do not find each other.
    """
    explicit = distributed is not None and ":" in distributed
    if not explicit and (num_processes is not None or process_id is not None):
        raise InputError("--num_processes and --process_id go with --distributed=HOST:PORT, the address of process 0")
    if distributed is None:
        return
    if explicit:
        _check_address(distributed, num_processes, process_id)
        method = "deactivate"
    elif distributed not in _CLUSTERS:
        raise InputError(f"--distributed is {distributed!r}, but it must be slurm, tpu, gke or HOST:PORT")
    elif distributed != "slurm" and importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--distributed={distributed} needs libtpu: install the extra, .[tpu]")
    else:
        method, variables, advice = _CLUSTERS[distributed]
        missing = [variable for variable in variables if variable not in os.environ]
        if missing:
            raise InputError(f"--distributed={distributed} needs {', '.join(missing)} in the environment: {advice}")
    _on_abort(_report_lost)
    try:
        jax.distributed.initialize(
            distributed if explicit else None,
            num_processes,
            process_id,
            cluster_detection_method=method,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:  # of gRPC, the metadata server, or JAX's own detection
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--distributed={distributed}: the processes of the run did not find each other: {reason}"
        ) from error


def _check_address(address: str, num_processes: int | None, process_id: int | None) -> None:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d+", address):
        raise InputError(
            f"--distributed={address} is no address: it must be HOST:PORT of process 0, such as node1:9876"
        )
    if num_processes is None or process_id is None:
        given = {"--num_processes": num_processes, "--process_id": process_id}
        missing = " and ".join(name for name, value in given.items() if value is None)
        raise InputError(
            f"--distributed={address} needs {missing}: how many processes there are, and which one this is"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process_id is {process_id}, but it must be from 0 to {num_processes - 1}")


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _report_lost(_: int) -> None:
    """Handles SIGABRT in C: Python's own handlers would run after JAX's call of abort(), which does not return."""
    if jax.distributed.is_initialized():
        lost = "another process of this run was lost"
        advice = "run the same command again on every host to go on from the last checkpoint"
    else:
        lost = "the processes of this run did not find each other in five minutes"
        advice = "start all of them, with one --distributed=HOST:PORT that each of them can reach"
    warn(f"error: {lost}, as the lines above say: {advice}")
    os._exit(LOST)


def _on_abort(handler: Any) -> None:
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


@contextmanager
def processes(
    distributed: str | None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """Joins the other processes (`start_processes`), and leaves them so that each of them can end as it has to: with
    process 0 goes what JAX's processes meet at, and every other one is ended.

    Raises:
      PeerLostError: a collective failed, because the process at its other end is gone. Where none is under way this
        process ends when it has not heard of another one for HEARTBEAT_SECONDS.
    """
    start_processes(distributed, num_processes, process_id)
    try:
        yield
    except Exception as error:
        if lost := lost_peer(error):
            raise PeerLostError(lost) from error
        # `jax.process_index` would start the devices, which may be what is wrong.
        if jax.distributed.is_initialized() and global_state.process_id == 0:
            time.sleep(_SECONDS_TO_REPORT)
        raise
    except Preempted:
        _leave()
        raise
    else:
        _leave()


def _leave() -> None:
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
        _on_abort(None)
