"""Runs that are killed again and again, and end as if nothing had happened.

    python experiments/soak/soak.py --kills=20 --seed=0 --workdir=runs/soak --output=experiments/results/soak.json

Two soaks, each with so many SIGKILLs at random instants, and some SIGTERMs between them:

- "same shape": a resident data set on two devices. It must end with the parameters, the optimiser's state and the
  metrics of a run that nobody stopped, equal to the bit.
- "other shapes": a folder of photographs; each life has other devices, processes, loader workers or parts of the
  parameters than the one before. The loss of every step must be that of a run that nobody stopped, within TOLERANCE.

SIGTERM must lose no step: what it leaves is a checkpoint of the last step in metrics.jsonl. The exit status is 1 when
something does not hold.
"""

import argparse
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
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from resnet_jax.environment import describe_environment
from resnet_jax.files import write_whole

# Relative, of the loss of each step. Other shapes add in another order, and training enlarges the differences: with
# this learning rate slowly enough to tell them from a step that was left out or made twice.
TOLERANCE = 1e-3
LEARNING_RATE = 0.001

# A process may need half a minute to notice that another one is gone; this is only to end a soak that hangs.
PATIENCE = 300

# In the first seconds of a life: imports, the start of the devices, reading the checkpoint, compiling.
EARLY = 6.0

NETWORK = {"model.family": "cifar_resnet", "model.depth": 8, "model.shortcut": "A"}
COMMON = {**NETWORK, "train.batch_size": 16, "train.checkpoint_every": 20, "train.eval_every": 100}
DIGITS = {**COMMON, "train.log_every": 10}
PHOTOGRAPHS = {
    **COMMON,
    "train.log_every": 1,
    "stream.side": 16,
    "stream.shorter_side": 20,
    "eval.batch_size": 20,
    "optimizer.learning_rate": LEARNING_RATE,
    "optimizer.ramp_iterations": 0,
    "optimizer.boundaries": (),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What may change between two lives: processes, devices of each, parts of the parameters, loader processes."""

    processes: int = 1
    devices: int = 1
    fsdp: int = 1
    workers: int = 0


SHAPES = (Shape(), Shape(1, 2, 1, 2), Shape(1, 4, 2), Shape(2, 1, 1, 2), Shape(2, 2, 2))


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


class Soak:
    """A run that is started, ended and started again."""

    def __init__(self, name, config, fields, workdir):
        self.name, self.config, self.fields, self.workdir = name, config, fields, workdir
        self.lives, self.wrong = [], []
        self.logs = workdir.with_name(f"{workdir.name}-logs")
        self.logs.mkdir(parents=True)

    def start(self, shape):
        """The processes of a life."""
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        fields = self.fields | {"mesh.fsdp": shape.fsdp, "stream.workers": shape.workers}
        command = [sys.executable, "-m", "resnet_jax.cli", "train", f"--config={self.config}"]
        command += [f"--config.{field}={value}" for field, value in fields.items()] + [f"--workdir={self.workdir}"]
        environment = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(shape.devices),
            "JAX_COMPILATION_CACHE_DIR": str(self.workdir.parent / "compilation_cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
            "PYTHONUNBUFFERED": "1",
        }
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
        """The file that holds what a process of the newest life says."""
        return self.logs / f"{len(self.lives):02}-{process}.{stream}"

    def steps(self):
        """The steps in metrics.jsonl, without a line that is not whole."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines(True) if path.exists() else []
        return [json.loads(line)["step"] for line in lines if line.endswith("\n")]

    def reached(self):
        """The last of `steps`."""
        return max(self.steps(), default=0)

    def saved(self):
        """The newest whole checkpoint."""
        found = [int(path.name) for path in (self.workdir / "checkpoints").glob("*") if path.name.isdigit()]
        return max(found, default=0)

    def is_saving(self):
        """Whether a checkpoint is on its way to the disk."""
        return any("tmp" in path.name for path in (self.workdir / "checkpoints").glob("*"))

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
            time.sleep(0.002)
        # A save can be over before it is seen.
        last = target + 2 * self.fields["train.checkpoint_every"]
        while end == "killed while saving" and not self.is_saving() and self.reached() < last:
            if all(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
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


def soak(name, config, fields, shapes, kills, seed, root):
    """Ends a run `kills` times, and compares it with one that nobody stopped; returns a JSON-able description."""
    rng, stops = random.Random(f"{name} {seed}"), max(1, kills // 4)
    whole = Soak(f"{name}, not stopped", config, fields, root / f"{config}-whole")
    whole.live(shapes[0], "complete", 0, 0)
    run = Soak(name, config, fields, root / f"{config}-soak")
    order = rng.sample(shapes, len(shapes))
    ends = ["killed"] * kills + ["SIGTERM"] * stops
    rng.shuffle(ends)
    for i, end in enumerate(ends):
        # Random steps that leave something to do to the lives that follow; and past what a life before has reached:
        # until this one gets there, metrics.jsonl may be that life's. JAX needs a second or two to spread a SIGTERM.
        left = max(0.0, 0.6 * fields["train.iterations"] - run.reached())
        target = run.reached() + 1 + rng.uniform(0, 1.5 * left / (len(ends) - i))
        shape, delay = order[len(run.lives) % len(order)], rng.uniform(0, 0.2)
        if end == "killed":
            end = rng.choice(("killed", "killed while saving", "killed while saving", "killed early"))
            if end == "killed early":
                delay = rng.uniform(0, EARLY)
            elif end == "killed while saving":
                delay = rng.uniform(0, 0.01)
            elif shape.processes > 1 and rng.random() < 0.5:
                end = "one killed"
        run.live(shape, end, target, delay)
        if run.lives[-1].end == "complete":
            break
    else:
        run.live(order[len(run.lives) % len(order)], "complete", 0, 0)
    exact = len(set(shapes)) == 1
    compared = compare(whole.workdir, run.workdir, exact)
    for each in (whole, run):
        each.print()
    print(*(f"{key}: {value}" for key, value in compared.items()), sep="\n")
    wrong = [f"{each.name}: {what}" for each in (whole, run) for what in each.wrong]
    if exact and not compared["equal_to_the_bit"]:
        wrong.append(f"{name}: it does not end with the same bits")
    if not exact and compared["largest_relative_difference_of_a_loss"] > TOLERANCE:
        wrong.append(f"{name}: the loss differs by more than {TOLERANCE}")
    if not exact and compared["median_relative_change_of_the_loss_in_a_step"] < 2 * TOLERANCE:
        wrong.append(f"{name}: a step that is missing would not be seen")
    killed = sum(signal.SIGKILL * -1 in life.statuses for life in run.lives)
    if killed != kills:
        wrong.append(f"{name}: {killed} lives were killed")
    print(*(wrong or [f"{name}: all holds, after {killed} SIGKILLs and {stops} SIGTERMs"]), sep="\n", flush=True)
    return {
        "name": name,
        "config": config,
        "fields": fields | {"dataset.data_dir": "digits as photographs"} if "dataset.data_dir" in fields else fields,
        "kills": killed,
        "stops": stops,
        "lives": [dataclasses.asdict(life) | {"seconds": round(life.seconds, 1)} for life in run.lives],
        **compared,
        "wrong": wrong,
    }


def compare(one, other, exact):
    """How far two finished runs are from each other."""
    lines, others = ([json.loads(line) for line in (each / "metrics.jsonl").open()] for each in (one, other))
    steps, theirs = ([line["step"] for line in each] for each in (lines, others))
    saved, also = everything_saved(one), everything_saved(other)
    if exact:
        figures = [[{**line, "seconds": None} for line in each] for each in (lines, others)]
        arrays = [jax.tree.leaves(each) for each in (saved, also)]
        same = len(arrays[0]) == len(arrays[1]) > 30 and all(map(np.array_equal, *arrays))
        return {"arrays": len(arrays[0]), "equal_to_the_bit": same and figures[0] == figures[1]}
    if steps != theirs:
        raise RuntimeError(f"{other} has not logged every step once")
    losses, also_losses = (np.array([line["train_loss"] for line in each]) for each in (lines, others))
    leaves, also_leaves = (jax.tree.leaves(each["variables"]["params"]) for each in (saved, also))
    differences = [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(leaves, also_leaves, strict=True)]
    return {
        "largest_relative_difference_of_a_loss": float(np.abs(also_losses / losses - 1).max()),
        "median_relative_change_of_the_loss_in_a_step": float(np.median(np.abs(losses[1:] / losses[:-1] - 1))),
        "largest_relative_difference_of_a_parameter_array": float(max(differences)),
    }


def everything_saved(workdir):
    """All arrays of the newest checkpoint, read without the package's own loading."""
    newest = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = dict(ocp.checkpointables_metadata(newest).metadata)
    del shapes["card"]  # no arrays
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    return jax.device_get(ocp.load_checkpointables(newest, abstract))


def make_photographs(root):
    """The digits as image files of several sizes, ten classes."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:340], digits.target[:340], strict=True)):
        folder = root / ("train" if i < 300 else "val") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB")
        picture.resize((24 + i % 7, 26), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--workdir", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    root = arguments.workdir.absolute()
    root.mkdir(parents=True)
    make_photographs(root / "photographs")
    photographs = {
        **PHOTOGRAPHS,
        "train.iterations": arguments.iterations,
        "dataset.data_dir": str(root / "photographs"),
    }
    plan = (
        # Steps of milliseconds.
        ("same shape", "digits", {**DIGITS, "train.iterations": 4 * arguments.iterations}, (Shape(devices=2),)),
        ("other shapes", "folder", photographs, SHAPES),
    )
    soaks = [soak(*each, arguments.kills, arguments.seed, root) for each in plan]
    environment = describe_environment() | {"devices": "see each life", "compilation_cache": "in the workdir"}
    command = f"python experiments/soak/soak.py --kills={arguments.kills} --seed={arguments.seed} "
    command += f"--iterations={arguments.iterations}"
    if arguments.output:
        found = {"command": command, "environment": environment, "tolerance": TOLERANCE, "soaks": soaks}
        write_whole(arguments.output, json.dumps(found, indent=1) + "\n")
    sys.exit(any(each["wrong"] for each in soaks))


if __name__ == "__main__":
    main()
