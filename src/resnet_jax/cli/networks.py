"""The commands that use trained networks, or count what a network costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.errors import InputError, printable, warn
from resnet_jax.files import expanded


@command
def evaluate(
    *,
    workdir: list[Path],
    checkpoint: str = "last",
    protocol: Literal["center", "ten_crop", "dense"] = "center",
    scales: list[int] | None = None,
    averaging: Literal["logits", "softmax"] = "logits",
    recalibrate: int | None = None,
    split: str | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    batch_size: int | None = None,
    output: Path | None = None,
    format: Format = "table",
) -> None:
    """Scores runs' checkpoints on a whole split; several runs are an ensemble.

    resnet-jax evaluate --workdir=DIR[,DIR…] [--checkpoint=last|best|ITERATION] [--protocol=center|ten_crop|dense]
                        [--scales=224,256,…] [--averaging=logits|softmax] [--recalibrate=N]
                        [--split=validation|test|train] [--dataset=NAME] [--data_dir=DIR] [--batch_size=N]
                        [--output=DIR] [--format=table|json]

    The checkpoint is the newest one by default; "best" is that with the least validation error, which a run with
    --config.train.keep_best=true keeps, and whose error on the validation images flatters it.
    The split is "validation" for image files and "test" for other data by default. The scales (shorter sides, in
    pixels) and the averaging are those of the protocol dense. --recalibrate averages the batch-norm statistics over N
    training batches first. --dataset says what --data_dir holds where that is not what the run was trained on:
    imagenet2012, folder or cache. Images of a folder are turned as their EXIF orientation says, unless its classes
    are named as ImageNet's are (n01440764), whose orientation is ignored. --output is a folder for result.json,
    predictions.csv, per_class.csv and confusion.csv.
    """
    flags = {name: value for name, value in locals().items() if name not in ("workdir", "format")}
    from resnet_jax.runs import terminal
    from resnet_jax.runs.evaluate import evaluate_runs

    score = evaluate_runs(workdir, **flags, log=warn, progress=terminal.progress)
    top5 = f" (top-5 {score['top5_error']:.2%})" if "top5_error" in score else ""
    damaged = f" ({score['damaged']} damaged)" if score["damaged"] else ""
    best = ", the best on validation images" if checkpoint == "best" else ""
    # Given weights and a fitted head were not trained here.
    after = f" after {', '.join(map(str, score['steps']))} iterations" if any(score["steps"]) else ""
    line = (
        f"{score['split']} error {score['error']:.2%}{top5}, loss {score['loss']:.4f} "
        f"on {score['images']} images{damaged} by {score['protocol']}{after}{best}"
    )
    show(format, score, lambda: line)


@command
def predict(*images: str, workdir: Path, checkpoint: str = "last", format: Format = "table") -> None:
    """Names the five most probable classes of images.

    resnet-jax predict --workdir=DIR [--checkpoint=last|best|ITERATION] [--format=table|json] IMAGE|FOLDER|PATTERN…

    A folder stands for all images below it, a pattern in quotes such as 'photos/**/*.jpg' for the files that match it.
    Hidden ones are left out, links are followed, and images are turned as their EXIF orientation says.
    """
    if not images:
        raise InputError("no image file was given: see --help")
    from resnet_jax.evaluation.prediction import predict
    from resnet_jax.runs import terminal
    from resnet_jax.runs.loading import load

    found = predict(load(workdir, checkpoint=checkpoint), images)
    rows: list[Sequence[str]] = []
    for file, classes in found:
        for i, (name, probability) in enumerate(classes):
            rows.append(("" if i else file, name, f"{probability:.1%}"))
        rows.append(())
    results = [
        {"file": file, "classes": [{"name": name, "probability": probability} for name, probability in classes]}
        for file, classes in found
    ]
    show(format, results, lambda: terminal.table(("file", "class", "probability"), rows, text_columns=2))


@command
def summary(
    *, model: str, shortcut: str | None = None, image_size: int | None = None, format: Format = "table"
) -> None:
    """Counts a network's parameters, multiply-adds and activation memory.

    resnet-jax summary --model=resnet50 [--shortcut=A|B|C] [--image_size=N] [--format=table|json]
    """
    from resnet_jax import analysis, models
    from resnet_jax.runs import terminal

    try:
        costs = {"model": model, **analysis.summary(models.create(model, shortcut=shortcut), image_size)}
    except ValueError as error:
        raise InputError(str(error)) from error
    headings, *rows = analysis.table_rows(costs)
    shortcuts, size = f"shortcut {costs['shortcut']}" if costs["shortcut"] else "no shortcuts", costs["image_size"]
    show(format, costs, lambda: terminal.table(headings, rows, f"{model}, {shortcuts}, {size}×{size} images"))


@command
def convert(
    *paths: str,
    checkpoint: str | None = None,
    model: str | None = None,
    shortcut_padding: str | None = None,
    bottleneck_stride: str | None = None,
    stem_pool_padding: str | None = None,
    batch_norm_epsilon: float | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    channel_order: str | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    prefix: str | None = None,
) -> None:
    """Turns PyTorch weights into a workdir, or a run's checkpoint into PyTorch weights.

    resnet-jax convert WEIGHTS DIR [--model=resnet18|plain18|…] [--bottleneck_stride=1x1|3x3]
                       [--stem_pool_padding=caffe|torch] [--shortcut_padding=end|both] [--batch_norm_epsilon=1e-5]
                       [--mean=R,G,B --std=R,G,B] [--channel_order=rgb|bgr] [--image_size=N] [--resize=N]
                       [--interpolation=bilinear|bicubic] [--prefix=NAME]
    resnet-jax convert DIR WEIGHTS [--checkpoint=last|best|ITERATION]

    WEIGHTS is a file of torchvision's, timm's or akamaster's ResNets or of this command: .safetensors, or .pth, .pt,
    .th, .bin, .ckpt or .pth.tar, which need torch. Tensors show neither strides nor pooling nor pixels: what the flags
    leave out is read from the file's metadata, from timm's config.json beside the file, or from a name that its
    publisher gave it, and else assumed; every setting is printed with where it is from. --mean and --std are of pixels
    from 0 to 1, or where one of them is above 1 from 0 to 255. --resize is what the shorter side of an image
    becomes before --image_size x --image_size pixels are cut out. --prefix says which network is meant where a file
    holds several, such as "model" and "model_ema".
    """
    stated = {name: value for name, value in locals().items() if value is not None}
    del stated["paths"]
    stated.pop("checkpoint", None)
    if len(paths) != 2:
        raise InputError(f"a source and a destination are wanted, but {len(paths)} arguments were given: see --help")
    names = ("the source", "the destination")
    source, destination = (expanded(path, name, remote=True) for path, name in zip(paths, names, strict=True))
    from resnet_jax.runs import convert as conversion

    if not source.is_dir():
        if checkpoint is not None:
            raise InputError(f"--checkpoint is of a run, but {source} is a file of weights: leave it away")
        name = conversion.from_torch(source, destination, lambda line: print(printable(line)), **stated)
        print(f"{name} in {destination}")
        return
    if stated:
        raise InputError(f"--{min(stated)} says what is in a file of weights, but {source} is a run: leave it away")
    conversion.to_torch(source, destination, checkpoint=checkpoint or "last")
    print(f"wrote {destination}")


@command
def export(*, workdir: Path, output: Path, checkpoint: str = "last") -> None:
    """Writes a run's checkpoint as a program that needs JAX and not this package.

    resnet-jax export --workdir=DIR --output=FILE [--checkpoint=last|best|ITERATION]

    The program holds the weights and the pre-processing, takes batches of any size, and is compiled for CPU, CUDA or
    TPU where it is loaded. FILE.json beside it names the classes and says how to load the file and what to show it.
    """
    replaced = {output.name, f"{output.name}.json"} & {"config.json", "metrics.jsonl", "result.json"}
    if output.parent.resolve() == workdir.resolve() and replaced:
        raise InputError(f"{output} or the .json beside it is a file of the run and would be replaced: name another")
    from resnet_jax.interop.exporting import export
    from resnet_jax.runs.loading import load_run

    run = load_run(workdir, checkpoint=checkpoint)
    print(f"wrote {output} and {export(run.classifier, output, run.step)}")


@command
def features(
    *,
    weights: Path,
    dataset: str = "folder",
    data_dir: Path | None = None,
    output: Path,
    workdir: Path | None = None,
    batch_size: int = 64,
    format: Format = "table",
) -> None:
    """Computes the features of a data set's images once, and fits a head to them.

    resnet-jax features --weights=DIR|FILE [--dataset=folder] --data_dir=DIR --output=FILE.npz [--workdir=DIR]
                        [--batch_size=N] [--format=table|json]

    The weights are a run's or a file's, as for `train --config=finetune`. The head, a logistic regression, is fitted to
    the features of the training images and scored on those of the validation images (of digits and CIFAR: the test
    images). FILE.npz holds the features, labels and file names of both; --workdir becomes a workdir with the network
    and this head, which evaluate, predict, export and convert take.
    """
    from resnet_jax.runs import terminal
    from resnet_jax.runs.extraction import extract_features

    if batch_size < 1:
        raise InputError(f"--batch_size={batch_size}, but it must be at least 1")
    score = extract_features(
        weights, dataset, output, data_dir, workdir, batch_size, log=warn, progress=terminal.progress
    )
    lines = [f"{score['split']} error {score['error']:.2%} on {score['images']} images", f"features   {output}"]
    lines += [] if workdir is None else [f"workdir    {workdir}"]
    show(format, score, lambda: "\n".join(lines))
