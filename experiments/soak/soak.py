"""Runs that are killed again and again, and end as if nothing had happened.

    python experiments/soak/soak.py --kills=20 --seed=0 --workdir=runs/soak --output=experiments/results/soak.json
                                    [--bucket=gs://…|s3://…]

Two soaks, each with so many SIGKILLs at random instants, and some SIGTERMs between them:

- "same shape": a resident data set on two devices. It must end with the parameters, the optimiser's state and the
  metrics of a run that nobody stopped, equal to the bit.
- "other shapes": a folder of images; each life has other devices, processes, loader workers or parts of the
  parameters than the one before. The loss of every step must be that of a run that nobody stopped, within TOLERANCE.

With --bucket the runs that are stopped have their workdirs there, and those that nobody stops on the disk.
SIGTERM must lose no step: what it leaves is a checkpoint of the last step in metrics.jsonl. The exit status is 1 when
something does not hold.
"""

import argparse
import dataclasses
import json
import random
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from lives import Shape, Soak
from orbax.checkpoint import v1 as ocp
from PIL import Image
from sklearn.datasets import load_digits

from resnet_jax.distributed.machine import describe_environment
from resnet_jax.files import expanded, is_remote, sizes, write_whole
from resnet_jax.runs.metrics_log import TIMES

# Relative, of the loss of each step. Other shapes add in another order, and training enlarges the differences: with
# this learning rate slowly enough to tell them from a step that was left out or made twice.
TOLERANCE = 1e-3
LEARNING_RATE = 0.001

# In the first seconds of a life: imports, the start of the devices, reading the checkpoint, compiling.
EARLY = 6.0

NETWORK = {"model.family": "cifar_resnet", "model.depth": 8, "model.shortcut": "A"}
COMMON = {**NETWORK, "train.batch_size": 16, "train.checkpoint_every": 20, "train.eval_every": 100}
DIGITS = {**COMMON, "train.log_every": 10}
PHOTOGRAPHS = {
    **COMMON,
    "train.log_every": 1,
    "stream.image_size": 16,
    "stream.resize_size": 20,
    "eval.batch_size": 20,
    "optimizer.learning_rate": LEARNING_RATE,
    "optimizer.warmup_steps": 0,
    "optimizer.boundaries": (),
}

SHAPES = (Shape(), Shape(1, 2, 1, 2), Shape(1, 4, 2), Shape(2, 1, 1, 2), Shape(2, 2, 2))


def soak(name, config, fields, shapes, kills, seed, root, place):
    """Ends a run `kills` times, and compares it with one that nobody stopped; returns a JSON-able description."""
    rng, stops = random.Random(f"{name} {seed}"), max(1, kills // 4)
    whole = Soak(f"{name}, not stopped", config, fields, root / f"{config}-whole", root)
    whole.live(shapes[0], "complete", 0, 0)
    run = Soak(name, config, fields, place / f"{config}-soak", root)
    # In a bucket steps show with the checkpoint that follows, and one takes seconds.
    longest, moment = (1.0, 1.0) if is_remote(place) else (0.2, 0.01)
    order = rng.sample(shapes, len(shapes))
    ends = ["killed"] * kills + ["SIGTERM"] * stops
    rng.shuffle(ends)
    for i, end in enumerate(ends):
        # Random steps that leave something to do to the lives that follow; and past what a life before has reached:
        # until this one gets there, metrics.jsonl may be that life's. JAX needs a second or two to spread a SIGTERM.
        left = max(0.0, 0.6 * fields["train.iterations"] - run.reached())
        target = run.reached() + 1 + rng.uniform(0, 1.5 * left / (len(ends) - i))
        shape, delay = order[len(run.lives) % len(order)], rng.uniform(0, longest)
        if end == "killed":
            end = rng.choice(("killed", "killed while saving", "killed while saving", "killed early"))
            if end == "killed early":
                delay = rng.uniform(0, EARLY)
            elif end == "killed while saving":
                delay = rng.uniform(0, moment)
            elif shape.processes > 1 and rng.random() < 0.5:
                end = "one killed"
        run.live(shape, end, target, delay)
        if run.lives[-1].end == "complete":
            break
    else:
        run.live(order[len(run.lives) % len(order)], "complete", 0, 0)
    exact = len(set(shapes)) == 1
    compared = compare(whole.workdir, on_the_disk(run.workdir, root), exact)
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
        "fields": fields | {"dataset.data_dir": "digits as image files"} if "dataset.data_dir" in fields else fields,
        "kills": killed,
        "stops": stops,
        "lives": [dataclasses.asdict(life) | {"seconds": round(life.seconds, 1)} for life in run.lives],
        **compared,
        "wrong": wrong,
    }


def on_the_disk(workdir, root):
    """A run's folder, which is copied from its bucket."""
    if not is_remote(workdir):
        return workdir
    copy = root / workdir.name
    for name in sizes(workdir):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((workdir / name).read_bytes())
    return copy


def compare(one, other, exact):
    """How far two finished runs are from each other."""
    lines, others = ([json.loads(line) for line in (each / "metrics.jsonl").open()] for each in (one, other))
    steps, theirs = ([line["step"] for line in each] for each in (lines, others))
    saved, also = everything_saved(one), everything_saved(other)
    if exact:
        figures = [[line | dict.fromkeys(TIMES) for line in each] for each in (lines, others)]
        arrays = [jax.tree_util.tree_leaves_with_path(each) for each in (saved, also)]
        different = [f"{len(each)} arrays" for each in arrays if len(each) != len(arrays[0]) or len(each) <= 30]
        different += [
            f"{jax.tree_util.keystr(path)} by {np.abs(np.subtract(array, its)).max():.3g}"
            for (path, array), (_, its) in zip(*arrays, strict=False)
            if not np.array_equal(array, its)
        ]
        different += [f"{line} and {its}" for line, its in zip(*figures, strict=False) if line != its]
        if steps != theirs:
            different.append(f"the steps {steps} and {theirs}")
        return {"arrays": len(arrays[0]), "equal_to_the_bit": not different, "different": different[:5]}
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


def write_images(root):
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
    parser.add_argument(
        "--iterations", type=int, help="by default 400, and 800 with --bucket, where steps show by tens"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--bucket", help="a folder in a bucket that is not there yet")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    arguments.iterations = arguments.iterations or (800 if arguments.bucket else 400)
    root = arguments.workdir.absolute()
    root.mkdir(parents=True)
    place = expanded(arguments.bucket, "--bucket", remote=True) if arguments.bucket else root
    write_images(root / "images")
    folder = {
        **PHOTOGRAPHS,
        "train.iterations": arguments.iterations,
        "dataset.data_dir": str(root / "images"),
    }
    plan = (
        # Steps of milliseconds.
        ("same shape", "digits", {**DIGITS, "train.iterations": 4 * arguments.iterations}, (Shape(devices=2),)),
        ("other shapes", "folder", folder, SHAPES),
    )
    soaks = [soak(*each, arguments.kills, arguments.seed, root, place) for each in plan]
    environment = describe_environment() | {
        "devices": "see each life",
        "compilation_cache": "on, see lives.py",
    }
    command = f"python experiments/soak/soak.py --kills={arguments.kills} --seed={arguments.seed} "
    command += f"--iterations={arguments.iterations}" + (f" --bucket={arguments.bucket}" if arguments.bucket else "")
    if arguments.output:
        found = {"command": command, "environment": environment, "tolerance": TOLERANCE, "soaks": soaks}
        write_whole(arguments.output, json.dumps(found, indent=1) + "\n")
    sys.exit(any(each["wrong"] for each in soaks))


if __name__ == "__main__":
    main()
