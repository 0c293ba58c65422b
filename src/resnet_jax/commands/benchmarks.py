"""The command that measures, with its three subjects."""

import json
from collections.abc import Sequence

from resnet_jax.arguments import FORMAT, given, integer, no_more, number, parse, path, string
from resnet_jax.errors import InputError


def benchmark(arguments: Sequence[str]) -> None:
    """Measures how fast a network trains or photographs are read, or reads what devices send each other.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--input=device|synthetic] [--variants=NAME,NAME,…]
                               [--steps=N] [--rounds=N] [--format=table|json]
    resnet-jax benchmark input --dataset=imagenet2012|folder|cache --data_dir=DIR [--crop=scale|area]
                               [--batch_size=256] [--workers=0,…] [--rounds=5] [--seconds=5] [--format=table|json]
    resnet-jax benchmark collectives [--model=resnet50] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                                     [--group_size=N] [--fsdp=N] [--accumulate=N] [--devices=8,64,1024]
                                     [--step_time=SECONDS] [--format=table|json]

    The variants are scanned (several steps to a dispatch, the default), rolled, unrolled, unrolled_scanned, and linen:
    the same network in plain nn.Conv and nn.BatchNorm. Their rounds alternate. So do those of the input: training's
    batches with each number of workers, single windows, and a plain Pillow loader.

    collectives compiles the training step for so many devices, runs nothing, and prints what each of them sends in it
    and how long published bandwidths take for that. --batch_size is that of all devices, by default 32 for each one;
    --step_time is what a device computes in a step, for the share of the step that communication takes.
    """
    of = {"train": _benchmark_train, "input": _benchmark_input, "collectives": _benchmark_collectives}
    what, *rest = arguments or [""]
    if what not in of:
        raise InputError(f"what to measure is {what or 'missing'}, but it must be {', '.join(of)}: see --help")
    of[what](rest)


def _benchmark_train(arguments: Sequence[str]) -> None:
    values, rest = parse(
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
    no_more(rest)
    from resnet_jax import benchmark as benchmarks

    fields = values.flag_values_dict()
    for name in ("format", "variants"):
        fields.pop(name)
    result = benchmarks.train_benchmark(**fields, variants=values.variants.split(","))
    print(json.dumps(result, indent=2) if values.format == "json" else benchmarks.render(result))


def _benchmark_input(arguments: Sequence[str]) -> None:
    values, rest = parse(
        arguments,
        string("dataset"),
        string("data_dir"),
        string("crop", "scale", ("scale", "area")),
        integer("batch_size", 256),
        string("workers", "0"),
        integer("rounds", 5),
        number("seconds", 5.0),
        FORMAT,
    )
    no_more(rest)
    workers = values.workers.split(",")
    if not all(each.isdecimal() for each in workers):
        raise InputError(f"--workers={values.workers} is wrong: it must be numbers of processes, such as 0,2")
    from resnet_jax import benchmark as benchmarks

    result = benchmarks.input_benchmark(
        given(values.dataset, "dataset"),
        path(values.data_dir, "data_dir"),
        crop=values.crop,
        batch_size=values.batch_size,
        workers=[int(each) for each in workers],
        rounds=values.rounds,
        seconds=values.seconds,
    )
    print(json.dumps(result, indent=2) if values.format == "json" else benchmarks.render_input(result))


def _benchmark_collectives(arguments: Sequence[str]) -> None:
    values, rest = parse(
        arguments,
        string("model", "resnet50"),
        string("shortcut"),
        *map(integer, ("batch_size", "image_size", "group_size")),
        integer("fsdp", 1),
        integer("accumulate", 1),
        string("devices", "8,64,1024"),
        number("step_time", 0.0),
        FORMAT,
    )
    no_more(rest)
    fields = values.flag_values_dict()
    as_json, devices = fields.pop("format") == "json", fields.pop("devices")
    if not all(each.isdecimal() for each in devices.split(",")):
        raise InputError(f"--devices={devices} is wrong: it must be numbers of devices, such as 8,64")
    from resnet_jax import benchmark as benchmarks

    result = benchmarks.collectives_benchmark(**fields, devices=[int(each) for each in devices.split(",")])
    print(json.dumps(result, indent=2) if as_json else benchmarks.render_collectives(result))
