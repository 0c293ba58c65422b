"""The commands that use trained networks, or count what a network costs."""

from collections.abc import Sequence

from resnet_jax.cli.arguments import (
    FORMAT,
    flags_of,
    folders,
    given,
    integer,
    listed,
    number,
    parse,
    path,
    show,
    string,
    strings,
    whole_numbers,
)
from resnet_jax.errors import InputError, printable, warn
from resnet_jax.files import expanded


def evaluate(arguments: Sequence[str]) -> None:
    """Scores runs' newest checkpoints on a whole split; several runs are an ensemble.

    resnet-jax evaluate --workdir=DIR[,DIR…] [--protocol=center|ten_crop|dense] [--scales=224,256,…]
                        [--averaging=logits|softmax] [--recalibrate=N] [--split=validation|test|train]
                        [--dataset=NAME] [--data_dir=DIR] [--batch_size=N] [--output=DIR] [--format=table|json]

    The split is "validation" for photographs and "test" for other data by default. The scales (shorter sides, in
    pixels) and the averaging are those of the protocol dense. --recalibrate averages the batch-norm statistics over N
    training batches first. --dataset says what --data_dir holds where that is not what the run was trained on:
    imagenet2012, folder or cache. Photographs of a folder are turned as their EXIF orientation says, unless its classes
    are named as ImageNet's are (n01440764), whose orientation is ignored. --output is a folder for result.json,
    predictions.csv, per_class.csv and confusion.csv.
    """
    values = flags_of(
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
    scales = values.scales and whole_numbers(
        ",".join(listed(values.scales)), "scales", "whole numbers of pixels, such as 224,256"
    )
    from resnet_jax.runs import terminal
    from resnet_jax.runs.evaluate import evaluate_runs

    score = evaluate_runs(
        folders(given(values.workdir, "workdir"), "workdir"),
        values.split,
        values.dataset,
        path(values.data_dir, "data_dir"),
        values.batch_size,
        protocol=values.protocol,
        scales=scales,
        averaging=values.averaging,
        recalibrate=values.recalibrate,
        output=path(values.output, "output"),
        log=warn,
        progress=terminal.progress,
    )
    top5 = f" (top-5 {score['top5_error']:.2%})" if "top5_error" in score else ""
    damaged = f" ({score['damaged']} damaged)" if score["damaged"] else ""
    line = (
        f"{score['split']} error {score['error']:.2%}{top5}, loss {score['loss']:.4f} "
        f"on {score['images']} images{damaged} by {score['protocol']} "
        f"after {', '.join(map(str, score['steps']))} iterations"
    )
    show(values, score, lambda: line)


def predict(arguments: Sequence[str]) -> None:
    """Names the five most probable classes of images.

    resnet-jax predict --workdir=DIR [--format=table|json] IMAGE|FOLDER|PATTERN…

    A folder stands for all images below it, a pattern in quotes such as 'photos/**/*.jpg' for the files that match it.
    Hidden ones are left out, links are followed, and photographs are turned as their EXIF orientation says.
    """
    values, rest = parse(arguments, string("workdir"), FORMAT)
    directory = given(path(values.workdir, "workdir"), "workdir")
    if not rest:
        raise InputError("no image file was given: see --help")
    from resnet_jax.evaluation.prediction import predict as run
    from resnet_jax.runs import terminal
    from resnet_jax.runs.loading import load

    results = run(load(directory), rest)
    rows: list[Sequence[str]] = []
    for result in results:
        for i, entry in enumerate(result["classes"]):
            rows.append(("" if i else result["file"], entry["name"], f"{entry['probability']:.1%}"))
        rows.append(())
    show(values, results, lambda: terminal.table(("file", "class", "probability"), rows, text_columns=2))


def summary(arguments: Sequence[str]) -> None:
    """Counts a network's parameters, multiply-adds and activation memory.

    resnet-jax summary --model=resnet50 [--shortcut=A|B|C] [--image_size=N] [--format=table|json]
    """
    values = flags_of(arguments, string("model"), string("shortcut"), integer("image_size"), FORMAT)
    from resnet_jax import analysis, models
    from resnet_jax.runs import terminal

    try:
        model = models.create(given(values.model, "model"), shortcut=values.shortcut)
        costs = {"model": values.model, **analysis.summary(model, values.image_size)}
    except ValueError as error:
        raise InputError(str(error)) from error
    headings, *rows = analysis.table_rows(costs)
    shortcuts = f"shortcut {costs['shortcut']}" if costs["shortcut"] else "no shortcuts"
    size = costs["image_size"]
    show(values, costs, lambda: terminal.table(headings, rows, f"{values.model}, {shortcuts}, {size}×{size} images"))


def convert(arguments: Sequence[str]) -> None:
    """Turns PyTorch weights into a workdir, or a run's newest checkpoint into PyTorch weights.

    resnet-jax convert WEIGHTS DIR [--model=resnet18|plain18|…] [--bottleneck_stride=1x1|3x3] [--stem_pool_padding=caffe|torch]
                       [--shortcut_padding=end|both] [--batch_norm_epsilon=1e-5] [--mean=R,G,B --std=R,G,B]
                       [--channel_order=rgb|bgr] [--image_size=N] [--resize=N] [--interpolation=bilinear|bicubic]
                       [--prefix=NAME]
    resnet-jax convert DIR WEIGHTS

    WEIGHTS is a file of torchvision's, timm's or akamaster's ResNets or of this command: .safetensors, or .pth, .pt,
    .th, .bin, .ckpt or .pth.tar, which need torch. Tensors show neither strides nor pooling nor pixels: what the flags
    leave out is read from the file's metadata, from timm's config.json beside the file, or from a name that its
    publisher gave it, and else assumed; every setting is printed with where it is from. --mean and --std are of pixels
    from 0 to 1, or where one of them is above 1 from 0 to 255. --resize is what the shorter side of a photograph
    becomes before --image_size x --image_size pixels are cut out. --prefix says which network is meant where a file
    holds several, such as "model" and "model_ema".
    """
    values, rest = parse(
        arguments,
        *map(
            string,
            ("model", "shortcut_padding", "bottleneck_stride", "stem_pool_padding", "channel_order", "interpolation"),
        ),
        number("batch_norm_epsilon"),
        string("mean"),
        string("std"),
        integer("image_size"),
        integer("resize"),
        string("prefix"),
    )
    if len(rest) != 2:
        raise InputError(f"a source and a destination are wanted, but {len(rest)} arguments were given: see --help")
    source, destination = expanded(rest[0], "the source"), expanded(rest[1], "the destination")
    from resnet_jax.runs import convert as conversion

    stated = values.flag_values_dict()
    stated |= {name: _numbers(stated[name], name) for name in ("mean", "std")}

    def log(line: str) -> None:
        print(printable(line))

    if not source.is_dir():
        name = conversion.from_torch(source, destination, log, **stated)
        print(f"{name} in {destination}")
        return
    flags = [name for name, value in stated.items() if value is not None]
    if flags:
        raise InputError(f"--{flags[0]} says what is in a file of weights, but {source} is a run: leave the flag away")
    conversion.to_torch(source, destination)
    print(f"wrote {destination}")


def _numbers(text: str | None, flag: str) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--{flag}={text} is no list of numbers, such as 0.485,0.456,0.406") from error


def export(arguments: Sequence[str]) -> None:
    """Writes a run's newest checkpoint as a program that needs JAX and not this package.

    resnet-jax export --workdir=DIR --output=FILE

    The program holds the weights and the pre-processing, takes batches of any size, and is compiled for CPU, CUDA or
    TPU where it is loaded. FILE.json beside it names the classes and says how to load the file and what to show it.
    """
    values = flags_of(arguments, string("workdir"), string("output"))
    directory, output = (given(path(values[flag].value, flag), flag) for flag in ("workdir", "output"))
    if output.parent.resolve() == directory.resolve() and {output.name, f"{output.name}.json"} & _RUN_FILES:
        raise InputError(f"{output} or the .json beside it is a file of the run and would be replaced: name another")
    from resnet_jax.interop.exporting import export as write
    from resnet_jax.runs.loading import load_run

    run = load_run(directory)
    print(f"wrote {output} and {write(run.classifier, output, run.step)}")


_RUN_FILES = {"config.json", "metrics.jsonl", "result.json"}
