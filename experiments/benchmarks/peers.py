"""Training and inference beside what a user would pick instead, on the same work: PyTorch and plain Linen.

    python experiments/benchmarks/peers.py [--works=train_resnet20,…] [--forms=ours,linen,torch,torch_compile]
        [--torch_python=PATH] [--dtype=float32|bfloat16] [--rounds=7] [--format=table|json] [--output=FILE.json]

Each form is a process of its own; `--torch_python` is the Python of an environment that has PyTorch, by default this
one. The forms take turns, round by round, so that a drift of the machine's speed meets all alike, and a form's speed is
the time of the first form / its own, pair by pair. A form that cannot start, or ends, is named with its reason.
`make benchmarks` runs all of it in float32.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from resnet_jax.benchmark.measuring import heading, in_turn, spread, written
from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.cli.main import exit_status
from resnet_jax.distributed.machine import describe_host
from resnet_jax.errors import InputError
from resnet_jax.runs.terminal import table

HERE = Path(__file__).parent


class Work(NamedTuple):
    """Steps of a round take about a second or two on two CPU cores."""

    task: str
    model: str
    batch_size: int
    image_size: int
    steps: int


WORKS = {
    "train_resnet20": Work("train", "cifar_resnet20", 128, 32, 4),
    "train_resnet110": Work("train", "cifar_resnet110", 32, 32, 2),
    "train_resnet50": Work("train", "resnet50", 8, 224, 1),
    "infer_resnet20": Work("infer", "cifar_resnet20", 128, 32, 8),
    "infer_resnet50": Work("infer", "resnet50", 8, 224, 4),
    # To try the command.
    "train_resnet8": Work("train", "cifar_resnet8", 8, 32, 1),
    "infer_resnet8": Work("infer", "cifar_resnet8", 8, 32, 1),
}
# What each form's own process is asked for; the first one's time is what the others' are compared with.
FORMS = {
    "torch": ("torch_peer.py", "eager"),
    "torch_compile": ("torch_peer.py", "compile"),
    "ours": ("jax_peer.py", "ours"),
    "linen": ("jax_peer.py", "linen"),
}


class Peer:
    """A process that does one round of the work for each line that it is given."""

    def __init__(self, form: str, work: Work, dtype: str, torch_python: str):
        script, kind = FORMS[form]
        python = torch_python if script == "torch_peer.py" else sys.executable
        arguments = [python, HERE / script, *map(str, work), dtype, kind]
        # Of a GPU each takes what it needs, and not all.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            self.version = self._line().removeprefix("ready").strip()
        except BaseException:
            self.close()
            raise

    def round(self) -> float:
        """Seconds of a step, or NaN, also from now on, where the process has ended."""
        assert self._process.stdin
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            return float(self._line())
        except (InputError, OSError):
            return math.nan

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"it ended with status {self._process.wait()}: its reason stands above")
        return line


def measure(work: Work, forms: list[str], dtype: str, rounds: int, torch_python: str) -> dict[str, Any]:
    """A dict of forms: "version", "step_time" in seconds and "relative_speed", each a spread over the rounds, and
    "images_per_second" of the median; or "reason", why it was not measured.
    """
    peers, result = {}, {}
    try:
        for form in forms:
            try:
                peers[form] = Peer(form, work, dtype, torch_python)
            except (InputError, OSError) as error:
                result[form] = {"reason": str(error)}
        times = dict(zip(peers, in_turn([peer.round for peer in peers.values()], rounds), strict=True))
    finally:
        for peer in peers.values():
            peer.close()
    whole = {form: np.array(own) for form, own in times.items() if not np.isnan(own).any()}
    for form in times.keys() - whole.keys():
        result[form] = {"reason": "it ended in a round: its reason stands above"}
    for form, own in whole.items():
        first = next(iter(whole.values()))
        result[form] = {
            "version": peers[form].version,
            "step_time": spread(own),
            "images_per_second": work.batch_size / float(np.median(own)),
            "relative_speed": spread(first / own),
        }
    return {form: result[form] for form in forms}


@command
def compare(
    *,
    works: str = "train_resnet20,train_resnet110,train_resnet50,infer_resnet20,infer_resnet50",
    forms: str = "torch,torch_compile,ours,linen",
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
        result["works"][name] = measure(WORKS[name], ordered, dtype, rounds, torch_python)
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
                rows.append((name, form, row["reason"], "", ""))
                continue
            step = written({key: 1e3 * value for key, value in row["step_time"].items()}, 1)
            images, speed = f"{row['images_per_second']:,.1f}", written(row["relative_speed"], 2)
            rows.append((name, f"{form} {row['version']}", step, images, speed))
    return table(("work", "form", "step (ms)", "images/s", "speed"), rows)


if __name__ == "__main__":
    raise SystemExit(exit_status(lambda: compare(sys.argv[1:])))
