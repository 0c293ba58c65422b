"""The commands that train and show what came out, and the one that examines the machines before."""

import os
from pathlib import Path
from typing import Literal

from resnet_jax.cli.arguments import Format, GivenConfig, command, show
from resnet_jax.configs import as_source, load
from resnet_jax.errors import InputError


@command
def train(
    *,
    config: GivenConfig,
    workdir: Path | None = None,
    distributed: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    print_config: bool = False,
) -> None:
    """Trains a network, or goes on with what the workdir holds.

    resnet-jax train --config=NAME[:VARIANT]|FILE [--config.FIELD=VALUE …] [--workdir=DIR]
                     [--distributed=slurm|tpu|gke|HOST:PORT [--num_processes=N --process_id=I]] [--print_config]

    The packaged configs are digits, cifar10, cifar100, imagenet, imagenet_90ep, folder for images of your own, and
    finetune for these from given weights; their files say more. The workdir is runs/NAME by default. Running the same
    command again goes on from the last checkpoint, or says that the run is complete; with more iterations or epochs it
    makes the run longer, where the learning rates until then stay what they were.

    --print_config trains nothing and prints the config as these flags make it, in a form that a file keeps:
    resnet-jax train --config=digits --print_config > mine.py, and --config=mine.py reads it.

    On several hosts the same command runs once on each, or once for each GPU under srun; --distributed says how they
    find each other, and HOST:PORT is the address of process 0. All of them must see the workdir.

    Exit statuses: 0 the run is complete; 2 something is wrong, and would be again; 75 a signal stopped the run and its
    state is saved; 76 another process of the run was lost; 130 Ctrl-C before the run had a state. After 75, 76 and 130
    the same command goes on.
    """
    parsed, directory = load(*config), workdir or config.workdir()
    if print_config:
        from resnet_jax.runs import checks

        checks.check(parsed)
        print(as_source(parsed))
        return
    import jax

    from resnet_jax.distributed import agreement, launch, machine
    from resnet_jax.runs import loop, metrics_log

    metrics_log.import_without_torch()
    with launch.processes(distributed, num_processes, process_id):
        machine.check_devices()
        agreement.check_shared(directory)  # all processes, whatever their environments say
        if jax.process_count() > 1 and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            # Where every host finds it, also one that takes another's place.
            machine.keep_programs(directory / "compilation_cache")
        loop.train(parsed, directory)


@command
def sweep(
    *,
    config: GivenConfig,
    workdir: Path,
    axis: list[str] | None = None,
    combine: Literal["product", "zip"] = "product",
    jobs: int | None = None,
    launcher: Literal["local", "slurm"] = "local",
    slurm: list[str] | None = None,
    searcher: Literal["grid", "optuna"] = "grid",
    trials: int | None = None,
) -> None:
    """Trains one run for each point of a grid of config fields, and prints the table of results.

    resnet-jax sweep --config=NAME --axis model.depth=20,32 --axis seed=0,1,2 [--config.FIELD=VALUE …] --workdir=DIR
                     [--combine=product|zip] [--jobs=N]
                     [--launcher=local|slurm --slurm NAME=VALUE,…]
                     [--searcher=grid|optuna --trials=N]

    Each point is a process of its own with a folder below DIR, where log.txt holds what it prints. At the end DIR holds
    results.json and curves.png, the curves of all points. Running the same command again skips the points that are
    complete and goes on with all others. Points that fail stop no other ones; the exit status is 2 where there are any.
    Ctrl-C lets the points at work save first.

    --combine=zip takes the first values of all axes together, then the second ones, and so on. --jobs is how many
    points run at a time: by default 1, or one on each accelerator; a single job has all accelerators.

    --launcher=slurm submits the points as a job array (extra "slurm"), --jobs of them at a time, with sbatch's options
    as --slurm partition=gpu,gpus_per_node=1,time=600, the time in minutes. The jobs go on when this command is
    interrupted, and the same command follows them again.

    --searcher=optuna (extra "search") trains N points with which Optuna looks for the least validation error, which
    needs --config.dataset.validation_images except for image files. An axis is then also a range of numbers, such as
    --axis optimizer.learning_rate=0.01..1:log. The study is in DIR/study.db.
    """
    flags = {name: value for name, value in locals().items() if name not in ("config", "workdir", "axis", "slurm")}
    from resnet_jax.sweeping.plan import sweep

    options = [part.strip() for each in slurm or () for part in each.split(",") if part.strip()]
    sweep(*config, axis or [], workdir, slurm=options, **flags)


@command
def runs(*folders: str, output: Path | None = None, format: Format = "table") -> None:
    """Lists runs side by side, with the fields in which they differ, and draws their curves in one picture.

    resnet-jax runs [DIR…] [--output=curves.png] [--format=table|json]

    A DIR is the workdir of a run, the folder of a sweep, or any other folder with runs below it; runs by default.
    Errors are the last ones, by the images that they were measured on. "unfinished" is a run that is at
    work or was stopped. What is damaged is said below the table, and stops nothing.
    """
    if output is not None and output.suffix != ".png":
        raise InputError(f"--output is {output}, but it is a picture, and its name must end in .png")
    from resnet_jax.runs import listing

    found = listing.list_runs(*folders)
    names = listing.short_names(found)
    if output is not None:
        listing.draw(found, names, output, f"{len(found)} runs in {', '.join(folders or ['runs'])}")
    show(format, [run.as_json() for run in found], lambda: listing.as_table(found, names))


@command
def report(*folders: str, output: Path = Path("report.html")) -> None:
    """Writes what experiments found of the paper's claims as a page, HTML with its figures in it.

    resnet-jax report DIR… [--output=report.html]

    A DIR holds results of experiments/paper, such as experiments/results/paper. The same as Markdown stands beside the
    page. The same results make the same bytes.
    """
    if not folders:
        raise InputError("a folder of results is wanted, as in resnet-jax report experiments/results/paper")
    from resnet_jax.report.claims import STATES
    from resnet_jax.report.page import write_report

    found = write_report(folders, output)
    states = [claim.state for each in found for claim in each.claims]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES)
    print(f"{len(states)} claims: {counts}; the page is {output}, and {output.with_suffix('.md').name} beside it")


@command
def doctor(
    *,
    config: GivenConfig | None = None,
    workdir: Path | None = None,
    distributed: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    format: Format = "table",
) -> None:
    """Says whether a run can begin: makes the checks of train on all its processes, and trains nothing.

    resnet-jax doctor [--config=NAME …] [--workdir=DIR] [--distributed=… as for train] [--format=table|json]

    It also says how fast the storage of the workdir and of photographs is, and whether the lock of a run holds there.
    Start it as training is to be started, on every host. The exit status is 2 where they cannot train together.
    """
    parsed, directory = config and load(*config), workdir or (config and config.workdir())
    from resnet_jax.distributed import agreement, launch
    from resnet_jax.runs import doctor as examination

    with launch.processes(distributed, num_processes, process_id):
        result = examination.examine(directory, parsed)
        wrong = [each for each in result["findings"] if each["grade"] == "impossible"]
        # Without devices no process knows its number.
        if wrong[:1] == result["findings"] or agreement.is_lead():
            show(format, result, lambda: examination.render(result))
        if wrong:
            raise InputError(
                "training is impossible here; " + "; ".join(f"{each['check']}: {each['says']}" for each in wrong)
            )
