"""The lives of a run: how each is started, ended and judged."""

import dataclasses
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from resnet_jax.files import is_remote

# A process may need half a minute to notice that another one is gone; this is only to end a soak that hangs.
PATIENCE = 300


@dataclasses.dataclass(frozen=True)
class Shape:
    """What may change between two lives: processes, devices of each, parts of the parameters, loader processes."""

    processes: int = 1
    devices: int = 1
    fsdp: int = 1
    workers: int = 0


@dataclasses.dataclass
class Life:
    """One start of a run: where it began, how it ended, the last step in its metrics, and its newest checkpoint."""

    shape: Shape
    end: str
    seconds: float = 0.0
    statuses: tuple[int, ...] = ()
    from_step: int | None = None
    to_step: int = 0
    saved: int = 0


def is_whole(path):
    """Whether nothing is missing from a checkpoint: on a disk it has its name then, in a bucket a file says so."""
    return (path / "commit_success.txt").exists() if is_remote(path) else path.name.isdigit()


class Soak:
    """A run that is started, ended and started again; its logs and what it compiles are in the folder `root`."""

    def __init__(self, name, config, fields, workdir, root):
        self.name, self.config, self.fields, self.workdir, self.root = name, config, fields, workdir, root
        self.lives, self.wrong = [], []
        self.logs = root / f"{workdir.name}-logs"
        self.logs.mkdir(parents=True)
        # Seconds between two looks. In a bucket each is a request, which the server also has the run's to answer.
        self.pause = 0.1 if is_remote(workdir) else 0.001

    def start(self, shape):
        """The processes of a life."""
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        fields = self.fields | {"mesh.fsdp": shape.fsdp, "stream.num_workers": shape.workers}
        command = [sys.executable, "-m", "resnet_jax.cli.main", "train", f"--config={self.config}"]
        command += [f"--config.{field}={value}" for field, value in fields.items()] + [f"--workdir={self.workdir}"]
        environment = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(shape.devices),
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "compilation_cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
            "PYTHONUNBUFFERED": "1",
        }
        if is_remote(self.workdir) and shape.processes > 1:
            del environment["JAX_COMPILATION_CACHE_DIR"]  # they have one in the bucket
        started = []
        for process in range(shape.processes):
            where = [f"--distributed=localhost:{port}", f"--num_processes={shape.processes}", f"--process_id={process}"]
            with self.log(process, "out").open("w") as out, self.log(process, "err").open("w") as err:
                started.append(
                    subprocess.Popen(
                        command + where * (shape.processes > 1), env=environment, stdout=out, stderr=err, text=True
                    )
                )
        return started

    def log(self, process, stream):
        """The log of a process of the newest life."""
        return self.logs / f"{len(self.lives):02}-{process}.{stream}"

    def steps(self):
        """The steps in metrics.jsonl, without a line that is not whole."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_bytes().decode().splitlines(True) if path.exists() else []
        return [json.loads(line)["step"] for line in lines if line.endswith("\n")]

    def reached(self):
        """The last of `steps`."""
        return max(self.steps(), default=0)

    def saved(self):
        """The newest whole checkpoint."""
        return max((int(path.name) for path in self._checkpoints() if is_whole(path)), default=0)

    def is_saving(self):
        """Whether a checkpoint is being written."""
        return any(not is_whole(path) for path in self._checkpoints())

    def _checkpoints(self):
        return [path for path in self.workdir.glob("checkpoints/*") if path.name[0].isdigit()]

    def live(self, shape, end, target, delay):
        """One life, which ends in one of these ways.

        "complete"; "killed" once the step `target` is logged and a further delay is over; "killed early", after the
        delay; "killed while saving", in the next save after `target`; "one killed": a random process, whose loss the
        others must notice; "SIGTERM" to a random process.
        """
        life = Life(shape, end)
        before, began, processes = self.saved(), time.monotonic(), self.start(shape)
        chosen = random.Random(f"{target} {delay}").randrange(shape.processes)
        try:
            if end != "complete" and self._comes(processes, end, target):
                time.sleep(delay)
                for process in processes if end.startswith("killed") else [processes[chosen]]:
                    process.send_signal(signal.SIGTERM if end == "SIGTERM" else signal.SIGKILL)
            life.statuses = tuple(process.wait(PATIENCE) for process in processes)
        finally:
            for process in processes:
                process.kill()
        life.seconds, life.to_step, life.saved = time.monotonic() - began, self.reached(), self.saved()
        if end == "killed while saving" and not self.is_saving():
            life.end = "killed"  # the save was faster
        if (self.workdir / "result.json").exists():
            life.end = "complete"
        self._judge(life, before, chosen)
        self.lives.append(life)
        print(f"{self.name}: {life}", flush=True)

    def _comes(self, processes, end, target):
        """Waits for the moment to end a life; whether it comes before the run is complete."""
        deadline = time.monotonic() + PATIENCE
        while end != "killed early" and self.reached() < target:
            if all(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                return False
            time.sleep(self.pause)
        # A save can be over before it is seen.
        last = target + 2 * self.fields["train.checkpoint_every"]
        while end == "killed while saving" and not self.is_saving() and self.reached() < last:
            if all(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                return False
            time.sleep(self.pause / 2)
        return True

    def _judge(self, life, before, chosen):
        said = self.log(0, "out").read_text()
        errors = [self.log(process, "err").read_text() for process in range(life.shape.processes)]
        going_on = re.search(r"going on from the checkpoint of iteration (\d+)", said)
        life.from_step = int(going_on[1]) if going_on else 0 if "billion multiply-adds" in said else None
        expected = {"complete": 0, "SIGTERM": 75}.get(life.end, -signal.SIGKILL)
        wanted = [expected] * life.shape.processes
        if life.end == "one killed":
            wanted = [expected if process == chosen else 76 for process in range(life.shape.processes)]
            others = [error for process, error in enumerate(errors) if process != chosen]
            self._check(all("another process of this run was lost" in error for error in others), "the others say so")
        if life.end == "SIGTERM":
            line = f"stopped: the state of iteration {life.to_step} is saved"
            self._check(life.saved == life.to_step, "SIGTERM loses no step")
            self._check(all(line in error for error in errors), "all processes stop at the same step")
        self._check(list(life.statuses) == wanted, f"the exit statuses are {wanted}")
        self._check(life.from_step in (None, before), "it goes on from the newest checkpoint")
        self._check("passed over" not in said, "every checkpoint is whole")

    def _check(self, holds, what):
        if not holds:
            self.wrong.append(f"life {len(self.lives)}: {what}")

    def print(self):
        """A table of the lives."""
        table = Table("life", "processes", "devices", "fsdp", "workers", "seconds", "end", "statuses", title=self.name)
        for name in ("from", "to", "saved"):
            table.add_column(name, justify="right")
        for i, life in enumerate(self.lives):
            shape = dataclasses.astuple(life.shape)
            begin = "-" if life.from_step is None else str(life.from_step)
            row = (i, *shape, f"{life.seconds:.1f}", life.end, list(life.statuses), begin, life.to_step, life.saved)
            table.add_row(*map(str, row))
        Console(width=120).print(table)
