"""All commands of resnet-jax by their names; the ones that prepare."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from resnet_jax.cli.arguments import command
from resnet_jax.cli.benchmarks import (
    benchmark_compile,
    benchmark_eval,
    benchmark_input,
    benchmark_memory,
    benchmark_train,
)
from resnet_jax.cli.help import completion_script
from resnet_jax.cli.networks import convert, evaluate, export, features, predict, summary
from resnet_jax.cli.running import doctor, report, runs, sweep, train
from resnet_jax.errors import InputError, warn


@command
def prepare(*, dataset: str, data_dir: Path | None = None) -> None:
    """Downloads a data set and prepares it for reading, once.

    resnet-jax prepare --dataset=cifar10|cifar100|imagenet2012 [--data_dir=DIR]

    It needs the extra "prepare". Running the same command again goes on where it was killed.
    """
    from resnet_jax.data import tfds

    print(f"prepared in {tfds.prepare(dataset, data_dir)}")


@command
def prepare_cache(
    *,
    dataset: Literal["imagenet2012", "folder"],
    data_dir: Path | None = None,
    output: Path,
    form: Literal["raw", "jpeg"] = "raw",
    resize_size: int | None = None,
    quality: int = 95,
) -> None:
    """Writes a cache of images, for machines whose cores cannot feed the accelerator.

    resnet-jax prepare cache --dataset=imagenet2012|folder --data_dir=DIR --output=DIR [--form=raw|jpeg]
                             [--resize_size=N] [--quality=95]

    It holds raw pixels (shorter side at most 256 by default; ImageNet takes about 340 GB), or JPEGs of which only what
    lies under a window is decoded (1 % larger than ImageNet's own). Train on it with --config.dataset.name=cache
    --config.dataset.data_dir=DIR. Images of a folder are turned as their EXIF orientation says. Running the same
    command again goes on where it was killed.
    """
    how: dict[str, Any] = {"form": form, "resize_size": resize_size, "quality": quality}
    from resnet_jax.data.cache import write_cache
    from resnet_jax.data.images import open_images
    from resnet_jax.runs import terminal

    write_cache(open_images(dataset, data_dir), output, **how, log=warn, progress=terminal.progress)


@command
def prepare_stage(*source: str, to: Path) -> None:
    """Copies a folder of data to a disk, from a bucket or from a slow file system.

    resnet-jax prepare stage SOURCE --to=DIR

    SOURCE is a folder, gs://… or s3://… too: of images, of data sets that TFDS prepared (the folder above them), or a
    cache. Train on DIR with --config.dataset.data_dir=DIR. DIR is there when all of it is; until then the copy is in
    .DIR.partial beside it, and the same command goes on where it was killed. Where DIR is complete, nothing is copied.
    """
    if len(source) != 1:
        raise InputError("one folder is wanted, as in resnet-jax prepare stage gs://bucket/photos --to=DIR")
    from resnet_jax.data.staging import stage
    from resnet_jax.runs import terminal

    stage(source[0], to, log=warn, progress=terminal.progress)


@command
def completion(*shell: str) -> None:
    """Prints a script with which a shell completes commands, flags and configs.

    resnet-jax completion bash|zsh|fish

    In ~/.bashrc: source <(resnet-jax completion bash), and alike in ~/.zshrc, behind compinit. For fish:
    resnet-jax completion fish > ~/.config/fish/completions/resnet-jax.fish
    """
    if len(shell) != 1:
        raise InputError("one shell is wanted, as in resnet-jax completion bash; zsh and fish are others")
    print(completion_script(shell[0], COMMANDS))


# In the order in which the help lists them.
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        *(train, evaluate, predict, summary, runs, sweep, report),
        *(benchmark_train, benchmark_eval, benchmark_input, benchmark_compile, benchmark_memory),
        *(features, convert, export, prepare, prepare_cache, prepare_stage, doctor, completion),
    )
}
