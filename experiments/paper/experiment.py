"""The frame of an experiment: `main` runs the small or the full form of a file here, and writes what it claims.

A file NAME.py defines `small(workdir) -> list[Claim]` and, where they differ, `full(workdir)` and `short(workdir)`,
which is the full form's data and networks with a schedule of hours on two CPU cores, and ends with
`experiment.main(__file__)`:

    python experiments/paper/NAME.py [--form=small|short|full] [--workdir=DIR] [--output=FILE.json]

By default it works in runs/paper/NAME and writes NAME.json, NAME.short.json or NAME.full.json into
experiments/results/paper. Trainings with `digits`, `cifar10` or `rj.train` go on where they were stopped, and
experiments share the networks of the former two.
"""

import argparse
import ast
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import resnet_jax as rj
from resnet_jax.cli.main import exit_status
from resnet_jax.data.tfds import open_records
from resnet_jax.distributed.machine import describe_environment
from resnet_jax.errors import InputError
from resnet_jax.files import check_writable
from resnet_jax.report import Claim, Curves, Results, State, write_results
from resnet_jax.report.claims import FORMS, make_folder
from resnet_jax.runs import Run

__all__ = [
    "Claim",
    "Curves",
    "State",
    "cifar10",
    "cifar10_data",
    "digits",
    "main",
    "run_experiment",
    "shown",
    "text",
    "train",
]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Files beside this one that are no experiments.
HELPERS = {"experiment", "imagenet"}

# Of the trainings whose networks this process has used, by folder: their seconds, and whether they had begun before.
_trained: dict[Path, tuple[float, bool]] = {}


def train(config: rj.configs.Config, folder: Path) -> Run:
    """`rj.train`, and the results say how long the training took, also where it ran before."""
    begun = _trained[folder][1] if folder in _trained else any(folder.glob("*"))
    run = rj.train(config, folder)
    _trained[folder] = run.result["training_seconds"], begun
    return run


def digits(workdir: Path, family: str, depth: int, seed: int = 0, iterations: int = 400, **fields: Any) -> Run:
    """A network trained on the digits at a rate of 0.03, in a folder that experiments share; `workdir` is the caller's.

    Fields are those of a config, with "__" for ".": `optimizer__learning_rate=0.1`.

    At 0.1 a residual network of 56 layers fails here as well, at 0.03 only its plain twin does.
    """
    changes = {"optimizer.learning_rate": 0.03, "train.eval_every": 100, "train.checkpoint_every": 100}
    changes |= {"model.family": family, "model.depth": depth, "seed": seed, "train.iterations": iterations}
    changes |= {name.replace("__", "."): value for name, value in fields.items()}
    name = "-".join([family, str(depth), *(f"{key}={fields[key]}" for key in sorted(fields)), str(iterations)])
    folder = workdir.parent / "digits" / f"{name}-{seed}".replace("/", "_")
    return train(rj.configs.load("digits", changes), folder)


def cifar10(workdir: Path, family: str, depth: int, seeds: int = 5, iterations: int = 64_000) -> list[Run]:
    """Networks of seeds 0, 1 … trained on CIFAR-10 by the paper's recipe, in folders that experiments share; those of a
    sweep into runs/paper/cifar10 are the same. With fewer iterations the rate drops after the same shares of them.
    """
    points = [{"model.family": family, "model.depth": str(depth), "seed": str(seed)} for seed in range(seeds)]
    parent, shorter = workdir.parent / "cifar10", {}
    if iterations != 64_000:
        parent = workdir.parent / f"cifar10-{iterations}"
        shorter = {"train.iterations": iterations, "train.eval_every": 200, "train.checkpoint_every": 100}
    folders = [parent / ",".join(f"{name}={each[name]}" for name in each) for each in points]
    configs = [rj.configs.load("cifar10", point | shorter) for point in points]
    return [train(config, folder) for config, folder in zip(configs, folders, strict=True)]


def cifar10_data(folder: Path | None = None) -> tuple[rj.data.Dataset, str]:
    """CIFAR-10, and what results call it: JPEG copies, on which networks err more, are named so."""
    first = open_records("cifar10", folder, ("test",)).splits["test"][0]["image"]
    return rj.data.load("cifar10", folder), "CIFAR-10" + " as JPEG copies" * first.startswith(b"\xff\xd8")


def shown(holds: Any) -> State:
    """The state of a claim that was run, of any truth value."""
    return "shown" if holds else "not shown"


def text(values: Sequence[float], unit: str = "", digits: int = 1) -> str:
    """Values of several seeds as people read them; of none nothing.

    >>> text([1.0, 3.0], " %")
    '2.0 ± 1.4 % (2)'
    """
    if not len(values):
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}{unit} ({len(values)})"


def run_experiment(path: Path, form: str, workdir: Path, output: Path, command: str = "") -> Results:
    """Runs a form of the experiment in a file, and writes and returns its results."""
    title = (ast.get_docstring(ast.parse(path.read_text())) or path.stem).splitlines()[0]
    functions = runpy.run_path(str(path), run_name=path.stem)
    if form not in functions:
        raise InputError(
            f"{path.name} has no {form} form: its forms are {', '.join(f for f in FORMS if f in functions)}"
        )
    resumed = any(workdir.glob("*"))
    for folder in (workdir, output.parent):
        make_folder(folder)
    check_writable(output)
    commit = _commit()  # the tree may change while it runs
    _trained.clear()
    begun, cpu_begun = time.monotonic(), time.process_time()
    function: Callable[[Path], list[Claim]] = functions[form]
    claims = function(workdir)
    seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_begun
    environment = describe_environment()
    device = f"{environment['devices']} × {environment['device']}, " if environment["platform"] != "cpu" else ""
    results = Results(
        name=path.stem,
        title=title,
        form=form,  # pyright: ignore[reportArgumentType]
        claims=claims,
        command=command or f"python experiments/paper/{path.name} --form={form}",
        hardware=f"{device}{environment['cpu']}, {environment['cores']} CPU cores",
        date=environment["date"][:10],
        commit=commit,
        versions={name: environment[name] for name in ("python", "jax", "flax")},
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu_seconds, 1),
        resumed=resumed or any(begun for _, begun in _trained.values()),
        training_seconds=round(sum(seconds for seconds, _ in _trained.values()), 1),
    )
    write_results(output, results)
    return results


def _commit() -> str:
    """The commit of this tree, with a "+" where a file differs from it or is not in it; nothing outside a clone."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def main(file: str) -> None:
    """Runs the experiment in a file as the command line says."""
    name = Path(file).stem
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--form", choices=FORMS, default="small")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper", name))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.output is not None and not given.output.name:
        parser.error("--output is no file: give one, such as runs/found.json")
    suffix = ".json" if given.form == "small" else f".{given.form}.json"
    output = given.output or ROOT / "experiments" / "results" / "paper" / f"{name}{suffix}"
    raise SystemExit(exit_status(lambda: _run(Path(file), given.form, given.workdir, output)))


def _run(file: Path, form: str, workdir: Path, output: Path) -> None:
    results = run_experiment(file, form, workdir, output)
    for claim in results.claims:
        ours = claim.ours if isinstance(claim.ours, str) else text(claim.ours, f" {claim.unit}", 2)
        print(f"{claim.state:9}  {claim.statement} Paper: {claim.paper}. Ours: {ours or '–'}")
    print(f"{results.cpu_seconds:.0f} CPU seconds; {output}")
