"""All commands of resnet-jax by their names; the ones that prepare and measure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from resnet_jax.cli.arguments import Format, command, show
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
def benchmark_train(
    *,
    model: str = "cifar_resnet20",
    shortcut: str | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    input: str = "device",
    variants: str = "scanned",
    steps: int = 10,
    rounds: int = 5,
    format: Format = "table",
) -> None:
    """Measures how fast a network trains on the devices at hand.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--input=device|synthetic] [--variants=NAME,NAME,…]
                               [--steps=N] [--rounds=N] [--format=table|json]

    The variants are scanned (several steps to a dispatch, the default), rolled, unrolled and unrolled_scanned. Their
    rounds alternate.
    """
    fields = {name: value for name, value in locals().items() if name not in ("variants", "format")}
    from resnet_jax.benchmark.train import VARIANTS, as_text, train_benchmark

    for name in variants.split(","):
        if name not in VARIANTS:
            raise InputError(f"--variants has {name!r}, but each must be one of {', '.join(VARIANTS)}")
    result = train_benchmark(**fields, variants={name: VARIANTS[name] for name in variants.split(",")})
    show(format, result, lambda: as_text(result))


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
        *(train, evaluate, predict, summary, runs, sweep, report, benchmark_train),
        *(features, convert, export, prepare, prepare_cache, doctor, completion),
    )
}
