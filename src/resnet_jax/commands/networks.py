"""The commands that use trained networks, or count what a network costs."""

import json
from collections.abc import Sequence

from resnet_jax.arguments import FORMAT, folders, given, integer, listed, no_more, parse, path, string, strings
from resnet_jax.errors import InputError, complain
from resnet_jax.files import expanded


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
        folders(given(values.workdir, "workdir"), "workdir"),
        values.split,
        values.dataset,
        path(values.data_dir, "data_dir"),
        values.batch_size,
        protocol=values.protocol,
        scales=None if scales is None else [int(scale) for scale in scales],
        averaging=values.averaging,
        recalibrate=values.recalibrate,
        output=path(values.output, "output"),
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
    directory = given(path(values.workdir, "workdir"), "workdir")
    if not rest:
        raise InputError("no image file was given: see --help")
    from resnet_jax.evaluation import predict as prediction
    from resnet_jax.evaluation.trained import load_trained

    results = prediction.predict_files(load_trained(directory), rest)
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


def convert(arguments: Sequence[str]) -> None:
    """Turns PyTorch weights into a workdir, or a run's newest checkpoint into PyTorch weights.

    resnet-jax convert WEIGHTS DIR     torchvision, timm, or CIFAR: .safetensors, .pth or .th
    resnet-jax convert DIR WEIGHTS     .safetensors or .pth

    Files of PyTorch's own kind (.pth, .th) need torch; .safetensors do not.
    """
    _, rest = parse(arguments)
    if len(rest) != 2:
        raise InputError(f"a source and a destination are wanted, but {len(rest)} arguments were given: see --help")
    source, destination = expanded(rest[0], "the source"), expanded(rest[1], "the destination")
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
    directory, output = (given(path(values[flag].value, flag), flag) for flag in ("workdir", "output"))
    from resnet_jax.interop.export import export as write

    print(f"wrote {output} and {write(directory, output)}")
