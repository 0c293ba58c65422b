"""The commands of resnet-jax: from arguments to functions that can be called without them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import config_flags

from resnet_jax.arguments import (
    FORMAT,
    config_flag,
    default_workdir,
    given,
    integer,
    listed,
    no_more,
    number,
    parse,
    parse_config,
    string,
    strings,
    with_config_paths,
)
from resnet_jax.errors import InputError, complain


def train(arguments: Sequence[str]) -> None:
    """Trains a network, or goes on with what the workdir holds.

    resnet-jax train --config=NAME[:VARIANT]|FILE [--config.FIELD=VALUE …] [--workdir=DIR]

    The packaged configs are digits, cifar10, cifar100, imagenet, imagenet_90ep, and folder for photographs of your own;
    their files say more, and configs/base.py lists the fields. The workdir is runs/NAME by default. Running the same
    command again goes on from the last checkpoint, or says that the run is complete.
    """
    values, rest = parse(arguments, config_flag, string("workdir"))
    no_more(rest)
    config = given(values.config, "config")
    from resnet_jax.training import loop

    loop.train(config, Path(values.workdir or default_workdir(arguments)))


def evaluate(arguments: Sequence[str]) -> None:
    """Scores runs' newest checkpoints on a whole split; several runs are an ensemble.

    resnet-jax evaluate --workdir=DIR[,DIR…] [--protocol=center|ten_crop|dense] [--scales=224,256,…]
                        [--averaging=logits|softmax] [--recalibrate=N] [--split=validation|test|train]
                        [--dataset=NAME] [--data_dir=DIR] [--batch_size=N] [--output=DIR] [--format=table|json]

    The split is "validation" for photographs and "test" for other data by default. The scales (shorter sides, in
    pixels) and the averaging are those of the protocol dense. --recalibrate averages the batch-norm statistics over N
    training batches first. --dataset says what --data_dir holds where that is not what the run was trained on:
    imagenet2012, folder or cache. --output is a folder for result.json, predictions.csv, per_class.csv and
    confusion.csv.
    """
    values, rest = parse(
        arguments,
        strings("workdir"),
        string("protocol", "center", ("center", "ten_crop", "dense")),
        strings("scales"),
        string("averaging", "logits", ("logits", "softmax")),
        integer("recalibrate"),
        string("split"),
        string("dataset"),
        string("data_dir"),
        integer("batch_size"),
        string("output"),
        FORMAT,
    )
    no_more(rest)
    scales = None if values.scales is None else listed(values.scales)
    if scales is not None and not all(scale.isdecimal() for scale in scales):
        raise InputError(f"--scales={','.join(scales)} is wrong: it must be whole numbers of pixels, such as 224,256")
    from resnet_jax.evaluation.evaluate import evaluate as run

    score = run(
        [Path(name) for name in listed(given(values.workdir, "workdir"))],
        values.split,
        values.dataset,
        values.data_dir,
        values.batch_size,
        protocol=values.protocol,
        scales=None if scales is None else [int(scale) for scale in scales],
        averaging=values.averaging,
        recalibrate=values.recalibrate,
        output=Path(values.output) if values.output else None,
        say=complain,
    )
    if values.format == "json":
        print(json.dumps(score))
        return
    top5 = f" (top-5 {score['top5_error']:.2%})" if "top5_error" in score else ""
    damaged = f" ({score['damaged']} damaged)" if score["damaged"] else ""
    print(
        f"{score['split']} error {score['error']:.2%}{top5}, loss {score['loss']:.4f} "
        f"on {score['images']} images{damaged} by {score['protocol']} "
        f"after {', '.join(map(str, score['steps']))} iterations"
    )


def predict(arguments: Sequence[str]) -> None:
    """Names the five most probable classes of images.

    resnet-jax predict --workdir=DIR [--format=table|json] IMAGE|FOLDER|PATTERN…

    A folder stands for all images below it, a pattern in quotes such as 'photos/**/*.jpg' for the files that match it.
    """
    values, rest = parse(arguments, string("workdir"), FORMAT)
    directory = Path(given(values.workdir, "workdir"))
    if not rest:
        raise InputError("no image file was given: see --help")
    from resnet_jax.evaluation import predict as prediction
    from resnet_jax.evaluation.trained import load_trained

    results = prediction.predict_files(load_trained(directory), [Path(path) for path in rest])
    if values.format == "json":
        print(json.dumps(results))
    else:
        prediction.print_table(results)


def summary(arguments: Sequence[str]) -> None:
    """Counts a network's parameters, multiply-adds and activation memory.

    resnet-jax summary --model=resnet50 [--shortcut=A|B|C] [--image_size=N] [--format=table|json]
    """
    values, rest = parse(arguments, string("model"), string("shortcut"), integer("image_size"), FORMAT)
    no_more(rest)
    from resnet_jax.analysis.complexity import run_summary

    try:
        print(run_summary(given(values.model, "model"), values.shortcut, values.image_size, values.format))
    except ValueError as error:
        raise InputError(str(error)) from error


def sweep(arguments: Sequence[str]) -> None:
    """Trains one run for each point of a grid of config fields, and prints the table of results.

    resnet-jax sweep --config=NAME --axis model.depth=20,32 --axis seed=0,1,2 [--config.FIELD=VALUE …] --workdir=DIR

    Running the same command again skips the points that are complete.
    """
    values, rest = parse(arguments, config_flag, string("workdir"), strings("axis"))
    no_more(rest)
    given(values.config, "config")
    from resnet_jax import sweep as sweeping

    source = next(arg for arg in with_config_paths(arguments) if arg.startswith("--config=")).partition("=")[2]
    overrides = config_flags.get_override_values(values["config"])

    def make_config(point):
        kept = {field: repr(value) if isinstance(value, tuple) else value for field, value in overrides.items()}
        return parse_config(source, [f"{field}={value}" for field, value in (kept | point).items()])

    sweeping.sweep(make_config, values.axis or [], Path(given(values.workdir, "workdir")))


def benchmark(arguments: Sequence[str]) -> None:
    """Measures how fast a network trains on the devices at hand, or how fast photographs are read.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--input=device|synthetic] [--variants=NAME,NAME,…]
                               [--steps=N] [--rounds=N] [--format=table|json]
    resnet-jax benchmark input --dataset=imagenet2012|folder|cache --data_dir=DIR [--crop=scale|area]
                               [--batch_size=256] [--workers=0,…] [--rounds=5] [--seconds=5] [--format=table|json]

    The variants are scanned (several steps to a dispatch, the default), rolled, unrolled, unrolled_scanned, and linen:
    the same network in plain nn.Conv and nn.BatchNorm. Their rounds alternate. So do those of the input: training's
    batches with each number of workers, single windows, and a plain Pillow loader.
    """
    of = {"train": _benchmark_train, "input": _benchmark_input}
    what, *rest = arguments or [""]
    if what not in of:
        raise InputError(f"what to measure is {what or 'missing'}, but it must be train or input: see --help")
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
        values.data_dir,
        crop=values.crop,
        batch_size=values.batch_size,
        workers=[int(each) for each in workers],
        rounds=values.rounds,
        seconds=values.seconds,
    )
    print(json.dumps(result, indent=2) if values.format == "json" else benchmarks.render_input(result))


def convert(arguments: Sequence[str]) -> None:
    """Turns PyTorch weights into a workdir, or a run's newest checkpoint into PyTorch weights.

    resnet-jax convert WEIGHTS DIR     torchvision, timm, or CIFAR: .safetensors, .pth or .th
    resnet-jax convert DIR WEIGHTS     .safetensors or .pth

    Files of PyTorch's own kind (.pth, .th) need torch; .safetensors do not.
    """
    _, rest = parse(arguments)
    if len(rest) != 2:
        raise InputError(f"a source and a destination are wanted, but {len(rest)} arguments were given: see --help")
    source, destination = Path(rest[0]), Path(rest[1])
    from resnet_jax.interop import convert as conversion

    if source.is_dir():
        conversion.to_torch(source, destination)
        print(f"wrote {destination}")
    else:
        print(f"{conversion.from_torch(source, destination)} in {destination}")


def export(arguments: Sequence[str]) -> None:
    """Writes a run's newest checkpoint as a program that needs JAX and not this package.

    resnet-jax export --workdir=DIR --output=FILE

    The program holds the weights and the pre-processing, takes batches of any size, and is compiled for CPU, CUDA or
    TPU where it is loaded. FILE.json beside it names the classes and says how to load the file and what to show it.
    """
    values, rest = parse(arguments, string("workdir"), string("output"))
    no_more(rest)
    directory, output = Path(given(values.workdir, "workdir")), Path(given(values.output, "output"))
    from resnet_jax.interop.export import export as write

    print(f"wrote {output} and {write(directory, output)}")


def prepare(arguments: Sequence[str]) -> None:
    """Downloads a data set and prepares it for reading, once; or writes a cache of photographs.

    resnet-jax prepare --dataset=cifar10|cifar100|imagenet2012 [--data_dir=DIR]
    resnet-jax prepare cache --dataset=imagenet2012|folder --data_dir=DIR --output=DIR [--form=raw|jpeg]
                             [--shorter_side=N] [--quality=95]

    The first form needs the extra "prepare". A cache is for machines whose cores cannot feed the accelerator: raw
    pixels (shorter side at most 256 by default; ImageNet takes about 340 GB), or JPEGs of which only what lies under a
    window is decoded (1 % larger than ImageNet's own). Train on it with --config.dataset.name=cache
    --config.dataset.data_dir=DIR. Running the same command again goes on where it was killed.
    """
    if arguments[:1] == ["cache"]:
        _prepare_cache(arguments[1:])
        return
    values, rest = parse(arguments, string("dataset"), string("data_dir"))
    no_more(rest)
    from resnet_jax.data import prepared

    print(f"prepared in {prepared.prepare(given(values.dataset, 'dataset'), values.data_dir)}")


def _prepare_cache(arguments: Sequence[str]) -> None:
    values, rest = parse(
        arguments,
        string("dataset", None, ("imagenet2012", "folder")),
        string("data_dir"),
        string("output"),
        string("form", "raw", ("raw", "jpeg")),
        integer("shorter_side"),
        integer("quality", 95),
    )
    no_more(rest)
    from resnet_jax.data.cache import write_cache

    write_cache(
        given(values.dataset, "dataset"),
        values.data_dir,
        Path(given(values.output, "output")),
        form=values.form,
        shorter_side=values.shorter_side,
        quality=values.quality,
        say=complain,
    )


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    function.__name__: function
    for function in (train, evaluate, predict, summary, sweep, benchmark, convert, export, prepare)
}
