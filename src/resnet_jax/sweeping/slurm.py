"""Points as the tasks of a SLURM array. This file alone knows submitit."""

import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from resnet_jax.errors import InputError
from resnet_jax.files import is_remote, write_whole
from resnet_jax.sweeping.local import describe_status, start_process
from resnet_jax.sweeping.runs import Run


class SlurmArray:
    """Submits points to SLURM and watches them; they go on without the process that submitted them.

    The folder DIR/slurm holds submitit's files, and DIR/slurm.json the jobs' names, so that the same command watches
    the jobs that it finds at work and submits the other points only. A job that comes to its time limit, or that gives
    way to another one, saves and is queued again. At most `jobs` points are submitted and not ended, where it is given.
    Without submitit or SLURM, with a wrong parameter, and for a folder in a bucket it raises InputError.
    """

    def __init__(self, directory: Path, jobs: int | None, parameters: Sequence[str]):
        if is_remote(directory):
            raise InputError(
                f"--launcher=slurm keeps the files of its jobs in the folder of the sweep, which is {directory}: give "
                "one on a file system that all machines see"
            )
        submitit = _submitit()
        for program in ("sbatch", "srun"):
            if not shutil.which(program):
                raise InputError(f"--launcher=slurm found no {program}: call it on a machine that submits to SLURM")
        self.jobs, directory = jobs or math.inf, directory.absolute()
        self._file, self._folder = directory / "slurm.json", directory / "slurm"
        self._names: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=1000)
        parallelism = {"array_parallelism": jobs} if jobs else {}
        self._executor.update_parameters(**sbatch_parameters(parameters), **parallelism, job_name=directory.name)
        self._jobs: list[tuple[Run, Any]] = []

    @property
    def running(self) -> list[Run]:
        """The runs that are submitted and have not ended."""
        return [run for run, _ in self._jobs]

    def start(self, commands: Sequence[tuple[Run, Sequence[str]]]) -> None:
        """Submits the commands of runs as one array, but for those whose job of an earlier call is still there."""
        submitit = _submitit()
        failures = submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError
        tasks = []
        for run, command in commands:
            if run.name in self._names:
                job = submitit.SlurmJob(self._folder, self._names[run.name])
                if not job.done(force_check=True):
                    run.log_start = 0  # It may have begun to write.
                    self._jobs.append((run, job))
                    continue
            tasks.append((run, PointTask(list(command), str(run.log.absolute()))))
        if not tasks:
            return
        try:
            # submitit prints what it then raises.
            with contextlib.redirect_stderr(io.StringIO()), self._executor.batch():
                jobs = [self._executor.submit(task) for _, task in tasks]
        except failures as error:
            why = (str(error).strip() or "it gave no reason").splitlines()[-1]
            raise InputError(f"sbatch refused the points: {why}") from error
        submitted = [(run, job) for (run, _), job in zip(tasks, jobs, strict=True)]
        self._jobs += submitted
        self._names |= {run.name: job.job_id for run, job in submitted}
        write_whole(self._file, json.dumps(self._names, indent=2) + "\n")

    def ended(self) -> list[tuple[Run, str]]:
        """Those that have ended since the last call, each with how."""
        gone = [(run, job) for run, job in self._jobs if run.is_over() or job.done()]
        self._jobs = [each for each in self._jobs if each not in gone]
        return [
            (run, f"SLURM job {job.job_id} ended as {job.state}, see {job.paths.stderr} and {job.paths.stdout}")
            for run, job in gone
        ]

    def stop(self) -> None:
        """Leaves the jobs alone: they are SLURM's."""
        self._jobs = []

    close = stop


class PointTask:
    """What SLURM runs for a point, in submitit's hands."""

    def __init__(self, command: Sequence[str], log: str):
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Runs the command; raises RuntimeError where it fails, so that SLURM's accounts say so."""
        with Path(self._log).open("ab") as log:
            self._process = start_process(self._command, log, {})
        if status := self._process.wait():
            raise RuntimeError(f"{describe_status(status)}: see {self._log}")

    def checkpoint(self) -> Any:
        """What submitit queues again, when it was told that the job must end; it calls this in a signal handler."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # It has just ended by itself.
                os.kill(self._process.pid, signal.SIGTERM)
                # Not Popen's wait, which holds a lock in the call that the signal has interrupted.
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return _submitit().helpers.DelayedSubmission(PointTask(self._command, self._log))


def sbatch_parameters(parameters: Sequence[str]) -> dict[str, Any]:
    """Reads parameters such as "partition=gpu" and "time=600" as submitit's executor takes them.

    Names that it does not have, such as gpus, become options of sbatch as they are.

    Raises:
      InputError: one that is not of that form, or no time limit in minutes.
    """
    names = _submitit().SlurmExecutor._valid_parameters()
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or not name or not text:
            raise InputError(f"--slurm={parameter!r} is not of the form NAME=VALUE,NAME=VALUE,… such as time=600")
        name = name.replace("-", "_")
        value = int(text) if text.isdecimal() else True if text.lower() == "true" else text
        (known if name in names else others)[name] = value
    if not isinstance(known.get("time"), int):
        raise InputError("--slurm=time=MINUTES is missing: after so long a job saves and is queued again")
    return known | ({"additional_parameters": others} if others else {})


def _submitit() -> Any:
    # Its import configures logging anew, which ends the handlers of everything else in the process; absl's would close
    # what was sys.stderr when absl was imported. The variable is there for the import only: jobs inherit the
    # environment, and their logs shall say when they are queued again.
    try:
        with mock.patch.dict(os.environ, SUBMITIT_LOG_LEVEL="NOCONFIG"):
            import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "--launcher=slurm needs submitit: pip install 'deep-residual-jax[slurm]', or pip install submitit"
        ) from error
    return submitit
