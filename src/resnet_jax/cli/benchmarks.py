"""The command that measures, with its two subjects."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax.cli.arguments import FORMAT, flags_of, given, integer, number, path, show, string, whole_numbers
from resnet_jax.errors import InputError


def benchmark(arguments: Sequence[str]) -> None:
    """Measures how fast a network trains, or photographs are read.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--input=device|synthetic] [--variants=NAME,NAME,…]
                               [--steps=N] [--rounds=N] [--format=table|json]
    resnet-jax benchmark input --dataset=imagenet2012|folder|cache --data_dir=DIR [--crop=random_scale|random_resized_crop]
                               [--batch_size=256] [--workers=0,…] [--rounds=5] [--seconds=5] [--format=table|json]

    The variants are scanned (several steps to a dispatch, the default), rolled, unrolled and unrolled_scanned. Their
    rounds alternate. So do those of the input: training's batches with each number of workers, single windows, and a
    plain Pillow loader.
    """
    of = {"train": benchmark_train, "input": _benchmark_input}
    what, *rest = arguments or [""]
    if what not in of:
        raise InputError(f"what to measure is {what or 'missing'}, but it must be {' or '.join(of)}: see --help")
    of[what](rest)


def benchmark_train(arguments: Sequence[str], further: Mapping[str, Any] | None = None) -> None:
    """The command `resnet-jax benchmark train`, with `further` variants beside its own."""
    values = flags_of(
        arguments,
        string("model", "cifar_resnet20"),
        string("shortcut"),
        integer("batch_size", 128),
        integer("image_size"),
        string("dtype", "float32"),
        string("input", "device"),
        string("variants", "scanned"),
        integer("steps", 10),
        integer("rounds", 5),
        FORMAT,
    )
    from resnet_jax.benchmark.train import VARIANTS, tables, train_benchmark

    fields, variants = values.flag_values_dict(), VARIANTS | dict(further or {})
    del fields["format"]
    names = fields.pop("variants").split(",")
    for name in names:
        if name not in variants:
            raise InputError(f"--variants has {name!r}, but each must be one of {', '.join(variants)}")
    result = train_benchmark(**fields, variants={name: variants[name] for name in names})
    memory = result["peak_bytes_in_use"]
    peak = [] if memory is None else [f"memory    {memory / 2**20:,.1f} MiB at the peak, first device"]
    show(values, result, lambda: "\n".join([*_heading(result), *peak, "", tables(result)]))


def _benchmark_input(arguments: Sequence[str]) -> None:
    values = flags_of(
        arguments,
        string("dataset"),
        string("data_dir"),
        string("crop", "random_scale", ("random_scale", "random_resized_crop")),
        integer("batch_size", 256),
        string("workers", "0"),
        integer("rounds", 5),
        number("seconds", 5.0),
        FORMAT,
    )
    from resnet_jax.benchmark.input import input_benchmark, loader_table

    result = input_benchmark(
        given(values.dataset, "dataset"),
        path(values.data_dir, "data_dir"),
        crop=values.crop,
        batch_size=values.batch_size,
        workers=whole_numbers(values.workers, "workers", "numbers of processes, such as 0,2"),
        rounds=values.rounds,
        seconds=values.seconds,
    )
    data = f"data      {result['photographs']} photographs; medians and quartiles of {values.rounds} rounds"
    show(values, result, lambda: "\n".join([*_heading(result), data, "", loader_table(result["loaders"])]))


def _heading(result: dict[str, Any]) -> list[str]:
    from resnet_jax.distributed.machine import environment_lines

    said = (
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in result["arguments"].items()
    )
    return [*environment_lines(result["environment"]), "arguments " + " ".join(said)]
