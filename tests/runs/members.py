"""The processes of one run on this machine: how tests start them; and, as a script, what each of them does."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from resnet_jax.configs import folder as folder_config
from resnet_jax.data import small
from resnet_jax.data.images import open_images
from resnet_jax.distributed import agreement, launch
from resnet_jax.errors import InputError
from resnet_jax.runs import checkpoints, loop
from resnet_jax.runs.checkpoints import Checkpoints
from small_run import lines_of, small_config, train_until

# Of a test that hangs; nothing depends on it.
PATIENCE = 600

# Differences of rounding grow with every step, all the faster the higher the learning rate.
CURVE = {
    "optimizer.learning_rate": 0.01,
    "train.batch_size": 16,
    "train.iterations": 20,
    "train.log_every": 1,
    "train.eval_every": 10,
    "train.checkpoint_every": 10,
    "mesh.data": None,
}
NETWORK = {
    "model.family": "cifar_resnet",
    "model.depth": 8,
    "model.shortcut": "A",
    "stream.image_size": 24,
    "stream.resize_size": 28,
    "stream.num_workers": 0,
    "optimizer.warmup_steps": 0,
    "eval.batch_size": 12,
}


class Members:
    """Processes that were started with the same arguments, but for those of `own`."""

    def __init__(self, logs, count, devices, program, *arguments, own=lambda process: ()):
        port, logs = free_port(), Path(logs)
        logs.mkdir(parents=True, exist_ok=True)
        # Helpers lie beside the folders of tests.
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
        environment = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self.processes, self._logs = [], []
        for process in range(count):
            where = [f"--distributed=localhost:{port}", f"--num_processes={count}", f"--process_id={process}"]
            command = [sys.executable, *program, *arguments, *own(process), *(where if count > 1 else [])]
            paths = [logs / f"{len(list(logs.iterdir()))}.{stream}" for stream in ("out", "err")]
            with paths[0].open("w") as out, paths[1].open("w") as err:
                self.processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))
            self._logs.append(paths)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def when(self, happened):
        """Returns as soon as `happened`, while all processes are at work."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            ended = [process.poll() for process in self.processes]
            assert ended == [None] * len(ended), f"{ended}: {self.errors()} {self.outputs()}"
            assert time.monotonic() < deadline, f"the moment never came: {self.outputs()}"
            time.sleep(0.005)

    def signal(self, number, *processes):
        """Sends a signal to some of them."""
        for process in processes:
            self.processes[process].send_signal(number)

    def statuses(self):
        """Waits for the ends of all of them."""
        return [process.wait(PATIENCE) for process in self.processes]

    def outputs(self):
        return [out.read_text() for out, _ in self._logs]

    def errors(self):
        """What each wrote to stderr, without the lines of libraries in C++."""
        return [
            [line for line in err.read_text().splitlines() if line.startswith(("error: ", "stopped: ", "Traceback"))]
            for _, err in self._logs
        ]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def trained(logs, count, devices, directory, name, fields, own=lambda process: ()):
    """The processes of resnet-jax train with fields of a config."""
    overrides = [f"--config.{field}={value}" for field, value in fields.items() if value is not None]
    program = ("-m", "resnet_jax.cli.main", "train", f"--config={name}", f"--workdir={directory}")
    return Members(logs, count, devices, program, *overrides, own=own)


def reached(directory):
    """The last iteration in metrics.jsonl."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def losses(directory, name="train_loss"):
    """Of each step."""
    return {line["step"]: line[name] for line in lines_of(directory) if name in line}


def make_photographs(root):
    """130 of the digits as image files of several sizes, ten classes."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:130], digits.target[:130], strict=True)):
        folder = root / ("train" if i < 100 else "val") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB")
        picture.resize((30 + i % 7, 32), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
    return root


# A short run on the photographs of `make_photographs`.
STREAMED = {
    "train.batch_size": 8,
    "train.iterations": 24,
    "train.log_every": 4,
    "train.eval_every": 24,
    "train.checkpoint_every": 4,
    "mesh.data": 1,
}


def photograph_config(photographs, fields):
    config = folder_config.get_config()
    config.update_from_flattened_dict(NETWORK | {"dataset.data_dir": str(photographs)} | fields)
    return config


def combinations(photographs, fields=None):
    """Configs by name: both pipelines, with statistics of the whole batch and of groups."""
    fields = CURVE | (fields or {})
    # On four devices a group of eight spans two of them, and one of four lies on one.
    return {
        "digits": small_config(fields),
        "digits in groups": small_config(fields | {"model.bn_group_size": 8}),
        "photographs": photograph_config(photographs, fields),
        "photographs in groups": photograph_config(photographs, fields | {"model.bn_group_size": 4}),
    }


def train_curves(process, root, photographs, *names):
    """Combinations in turn; "digits, cut" are two lives of a run with parameters cut in two."""
    known = combinations(photographs)
    for name in names:
        if name in known:
            loop.train(known[name], root / name)
        else:
            train_cut(process, root)


def train_cut(process, root):
    """Two lives, with parameters cut in two; at the second one's start process 1 sees the checkpoints late, and reads
    other bits of the newest one.
    """
    cut = small_config(CURVE | {"mesh.fsdp": 2, "train.checkpoint_every": 5})
    train_until(17, cut, root / "digits, cut")
    assert reached(root / "digits, cut") == 17
    if process == 1:
        see, check, late, damaged = Checkpoints._seen, checkpoints.check_fingerprints, [True], [True]
        Checkpoints._seen = lambda checkpoints: [] if late and late.pop() else see(checkpoints)
        checkpoints.check_fingerprints = lambda parts, expected: check(
            parts, {name: 0 for name in expected} if "training" in parts and damaged and damaged.pop() else expected
        )
    loop.train(cut, root / "digits, cut")


def shortened(dataset, by):
    """Without some of the images to test with."""
    images, labels = dataset.test.images, dataset.test.labels
    test = dataclasses.replace(dataset.test, images=images[by:], labels=labels[by:])
    return dataclasses.replace(dataset, test=test)


def darkened(dataset, by):
    """With other images to test with, as many."""
    test = dataclasses.replace(dataset.test, images=dataset.test.images // (1 + by))
    return dataclasses.replace(dataset, test=test)


def refused(process, root, photographs):
    """Writes down how each of many wrong starts is refused."""
    agreement.SEEN_WITHIN = 1.0
    (root / "file").write_text("no folder")
    shared = root / "refused"
    starts = {
        "configs": ({"train.batch_size": (16, 32)[process], "optimizer.learning_rate": (0.1, 0.2)[process]}, shared),
        "own configs": ({"stream.num_workers": (0, 2)[process], "mesh.data": 3}, shared),
        "workdirs": ({}, root / f"own{process}"),
        "unwritable": ({}, (root / "writable", root / "file" / "run")[process]),
        "mesh.data": ({"mesh.data": 3}, shared),
        "mesh.data below": ({"mesh.data": 1}, shared),
        "mesh.fsdp": ({"mesh.fsdp": 3}, shared),
        "both": ({"mesh.data": 4, "mesh.fsdp": 2}, shared),
        "batch": ({"train.batch_size": 18}, shared),
        "grad_accum_steps": ({"train.grad_accum_steps": 3}, shared),
        "group": ({"train.grad_accum_steps": 2, "model.bn_group_size": 4}, shared),
    }
    said = {}
    for name, (fields, directory) in starts.items():
        try:
            loop.train(small_config({"mesh.data": None} | fields), directory)
        except InputError as error:
            said[name] = str(error)
    load = small.load
    for name, change in {"data": shortened, "pixels": darkened}.items():
        try:
            small.load = lambda *arguments, change=change: change(load(*arguments), by=process)
            loop.train(small_config({"mesh.data": None}), shared)
        except InputError as error:
            said[name] = str(error)
        finally:
            small.load = load
    (root / f"refused{process}.json").write_text(json.dumps(said))


def spoil(folder, *indices):
    """Damages some of a folder's training photographs."""
    train = open_images("folder", str(folder)).train
    for index in indices:
        (folder / train[index].name).write_bytes(b"no image")


def unlike(process, root, photographs):
    """Writes down how runs end whose processes see other pixels under the same names, or meet a damaged photograph
    each.
    """
    own = shutil.copytree(photographs, root / f"own{process}")
    if process == 1:
        first = open_images("folder", str(own)).train[0].name
        Image.fromarray(np.zeros((30, 32, 3), np.uint8)).save(own / first)
    mean = {"stream.normalization": "mean_image", "stream.mean_images": 100}
    starts = {
        "mean image": photograph_config(own, CURVE | mean),
        # Two are more than 1.5 % of 100.
        "damaged": photograph_config(
            root / "damaged", CURVE | {"train.iterations": 4, "stream.max_corrupt_fraction": 0.015}
        ),
    }
    said = {}
    for name, config in starts.items():
        try:
            loop.train(config, root / name)
        except InputError as error:
            said[name] = str(error)
    (root / f"unlike{process}.json").write_text(json.dumps(said))


def main():
    # A process that tests leave behind ends by itself.
    signal.alarm(2 * PATIENCE)
    task, root, photographs, *names, address, count, process = sys.argv[1:]
    count, process = (int(each.partition("=")[2]) for each in (count, process))
    with launch.processes(address.partition("=")[2], count, process):
        tasks = {"curves": train_curves, "refused": refused, "unlike": unlike}
        tasks[task](process, Path(root), Path(photographs), *names)


if __name__ == "__main__":
    main()
