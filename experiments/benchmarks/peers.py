"""Training and inference beside what a user would pick instead, on the same work: PyTorch and plain Linen.

    python experiments/benchmarks/peers.py [--works=train_resnet20,…] [--forms=ours,linen,torch,…]
        [--torch_python=PATH] [--dtype=float32|bfloat16] [--rounds=7] [--format=table|json] [--output=FILE.json]

Each form is a process of its own; `--torch_python` is the Python of an environment that has PyTorch, by default this
one. The forms take turns, round by round, so that a drift of the machine's speed meets all alike, and a form's speed is
the time of the first form / its own, pair by pair. A form that cannot start, or ends, is named with its reason, and so
is one that sees no GPU where another one does: it is not measured, since its ratio would say nothing.
`make benchmarks` runs the works for two CPU cores in float32; those whose names begin with "gpu" are for a GPU, and
use the first one that `CUDA_VISIBLE_DEVICES` names. More forms are `torch_graphs`, `torch.compile` with CUDA graphs,
and `torch_autotune`, which searches for minutes. `ours_onednn` is ours with the extra `onednn`, on a CPU. Float32 on a
GPU is TF32 in all of them.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from resnet_jax.benchmark.measuring import heading, in_turn, spread, written
from resnet_jax.benchmark.roofline import shares
from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.cli.main import exit_status
from resnet_jax.distributed.machine import describe_host
from resnet_jax.errors import InputError
from resnet_jax.runs.terminal import table

HERE = Path(__file__).parent


class Job(NamedTuple):
    """What each form does of a work: so many steps in a round."""

    task: str
    model: str
    batch_size: int
    image_size: int
    steps: int


WORKS = {
    # A round takes about a second or two on two CPU cores.
    "train_resnet20": Job("train", "cifar_resnet20", 128, 32, 4),
    "train_resnet110": Job("train", "cifar_resnet110", 32, 32, 2),
    "train_resnet50": Job("train", "resnet50", 8, 224, 1),
    "infer_resnet20": Job("infer", "cifar_resnet20", 128, 32, 8),
    "infer_resnet50": Job("infer", "resnet50", 8, 224, 4),
    # On a GPU a step takes milliseconds.
    "gpu_train_resnet20": Job("train", "cifar_resnet20", 128, 32, 200),
    "gpu_train_resnet110": Job("train", "cifar_resnet110", 128, 32, 100),
    "gpu_train_resnet50": Job("train", "resnet50", 256, 224, 20),
    "gpu_infer_resnet20": Job("infer", "cifar_resnet20", 128, 32, 500),
    "gpu_infer_resnet110": Job("infer", "cifar_resnet110", 128, 32, 200),
    "gpu_infer_resnet50": Job("infer", "resnet50", 256, 224, 40),
    # To try the command.
    "train_resnet8": Job("train", "cifar_resnet8", 8, 32, 1),
    "infer_resnet8": Job("infer", "cifar_resnet8", 8, 32, 1),
}
# What each form's own process is asked for; the first one's time is what the others' are compared with. They fill the
# memory of a GPU in this order: where it is too small for all of them, it is Linen that is left out.
FORMS = {
    "torch": ("torch_peer.py", "eager"),
    "torch_compile": ("torch_peer.py", "compile"),
    "torch_graphs": ("torch_peer.py", "graphs"),
    "torch_autotune": ("torch_peer.py", "autotune"),
    "ours": ("jax_peer.py", "ours"),
    "ours_onednn": ("jax_peer.py", "ours_onednn"),
    "linen": ("jax_peer.py", "linen"),
}
DEFAULT_FORMS = "torch,torch_compile,ours,ours_onednn,linen"


class Peer:
    """A process that says first what it is, and then answers each line that it is given, with JSON each time."""

    def __init__(self, form: str, job: Job, dtype: str, torch_python: str):
        script, kind = FORMS[form]
        python = torch_python if script == "torch_peer.py" else sys.executable
        arguments = [python, HERE / script, *map(str, job), dtype, kind]
        # Of a GPU's memory each takes what it needs when it first needs it, and keeps it; of several GPUs PyTorch would
        # use one and JAX all.
        environment = {
            **os.environ,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "RESNET_JAX_ONEDNN": str(int(form == "ours_onednn")),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        }
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def answer(self) -> Any:
        """What it says next; an InputError where it has ended."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"it ended with status {self._process.wait()}: its reason stands above")
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """What it says to a line; an InputError where it has ended."""
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it has ended, which `answer` tells
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        return self.answer()

    def round(self) -> float:
        """Seconds of a step, or NaN, also from now on, where the process has ended."""
        try:
            return self.ask("round")
        except InputError:
            return math.nan

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def measure(job: Job, forms: list[str], dtype: str, rounds: int, torch_python: str) -> dict[str, Any]:
    """A dict of forms: "version", "platform" and "device" that it ran on, "step_time" in seconds and "relative_speed",
    each a spread over the rounds, "images_per_second" of the median, and "first_round_time", seconds of a first round,
    which compiles; or "reason", why it was not measured. Ours has "roofline" and shares of it, too, see
    `roofline.roofline`.
    """
    peers: dict[str, Peer] = {}
    result: dict[str, dict[str, Any]] = {}

    def attempt(form: str, call: Any) -> Any:
        try:
            return call()
        except (InputError, OSError) as error:
            peers.pop(form, None)
            result[form] = {"reason": str(error)}

    with contextlib.ExitStack() as stack:
        for form in forms:
            if peer := attempt(form, lambda form=form: Peer(form, job, dtype, torch_python)):
                peers[form] = peer
                stack.callback(peer.close)
        # They import their libraries at the same time.
        result |= {form: about for form, peer in list(peers.items()) if (about := attempt(form, peer.answer))}
        for form, reason in beside_accelerators({form: result[form] for form in peers}).items():
            result[form] = {"reason": reason}
            del peers[form]
        for form, peer in list(peers.items()):
            started = time.perf_counter()
            if attempt(form, lambda peer=peer: peer.ask("round")) is not None:
                result[form]["first_round_time"] = time.perf_counter() - started
        times = dict(zip(peers, in_turn([peer.round for peer in peers.values()], rounds), strict=True))
        whole = {form: np.array(own) for form, own in times.items() if not np.isnan(own).any()}
        for form in times.keys() - whole.keys():
            result[form] = {"reason": "it ended in a round: its reason stands above"}
        for form, own in whole.items():
            step = float(np.median(own))
            result[form]["step_time"] = spread(own)
            result[form]["images_per_second"] = job.batch_size / step
            result[form]["relative_speed"] = spread(next(iter(whole.values())) / own)
            if form.startswith("ours"):
                # When all rounds are done: it measures the device's peaks, for which the others leave little memory.
                with contextlib.suppress(InputError):
                    bound = peers[form].ask("roofline")
                    result[form] |= {"roofline": bound, **shares(bound, step)}
    return {form: result[form] for form in forms}


def beside_accelerators(about: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Of what processes say of themselves: which must not be measured, and why."""
    accelerated = {form: each for form, each in about.items() if each["platform"] != "cpu"}
    if not accelerated:
        return {}
    other, seen = next(iter(accelerated.items()))
    return {
        form: f"no ratio: version {each['version']} sees no GPU, and {other} runs on {seen['device']}"
        for form, each in about.items()
        if form not in accelerated
    }


@command
def compare(
    *,
    works: str = "train_resnet20,train_resnet110,train_resnet50,infer_resnet20,infer_resnet50",
    forms: str = DEFAULT_FORMS,
    torch_python: str = sys.executable,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 7,
    format: Format = "table",
    output: Path | None = None,
) -> None:
    """The command; as JSON: "environment", "arguments" and "works", a dict of what `measure` returns."""
    chosen = {"works": works.split(","), "forms": forms.split(",")}
    for flag, names, known in (("works", chosen["works"], WORKS), ("forms", chosen["forms"], FORMS)):
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"--{flag} names {', '.join(unknown)}, but there are {', '.join(known)}")
    if rounds < 1:
        raise InputError(f"--rounds is {rounds}, but it must be at least 1")
    ordered = [form for form in FORMS if form in chosen["forms"]]
    result: dict[str, Any] = {
        "environment": describe_host(),
        "arguments": {**chosen, "dtype": dtype, "rounds": rounds},
        "works": {},
    }
    for name in chosen["works"]:
        print(f"{name}: {', '.join(ordered)}", file=sys.stderr)
        result["works"][name] = found = measure(WORKS[name], ordered, dtype, rounds, torch_python)
        for form, each in found.items():
            said = each.get("reason") or f"version {each['version']} on {each['device']}"
            print(f"  {form}: {said}", file=sys.stderr)
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(result, indent=1) + "\n")
    show(format, result, lambda: "\n".join([*heading(result), "", as_table(result["works"])]))


def as_table(works: dict[str, Any]) -> str:
    """The comparison for people: medians and quartiles."""
    rows = []
    for name, forms in works.items():
        for form, row in forms.items():
            if "reason" in row:
                rows.append((name, form, row["reason"], "", "", ""))
                continue
            step = written({key: 1e3 * value for key, value in row["step_time"].items()}, 1)
            images, speed = f"{row['images_per_second']:,.1f}", written(row["relative_speed"], 2)
            reached = f"{row['share_of_roofline']:.1%}" if "roofline" in row else ""
            rows.append((name, f"{form} {row['version']} on {row['device']}", step, images, speed, reached))
    return table(("work", "form", "step (ms)", "images/s", "speed", "of roofline"), rows)


if __name__ == "__main__":
    raise SystemExit(exit_status(lambda: compare(sys.argv[1:])))
