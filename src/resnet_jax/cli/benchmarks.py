"""The commands that measure: how fast things are on the machine at hand, and what they need."""

from pathlib import Path
from typing import Any, Literal

from resnet_jax.cli.arguments import Format, command, show
from resnet_jax.errors import InputError


@command
def benchmark_train(
    *,
    model: str = "cifar_resnet20",
    shortcut: str | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    bn_group_size: int | None = None,
    input: str = "device",
    variants: str = "run",
    steps: int = 10,
    rounds: int = 5,
    format: Format = "table",
) -> None:
    """Measures how fast a network trains on the devices at hand.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--bn_group_size=N] [--input=device|synthetic]
                               [--variants=NAME,NAME,…] [--steps=N] [--rounds=N] [--format=table|json]

    The variants are run (as a run does it, the default); scanned and unrolled_scanned, whose blocks are in a loop or
    written out, several steps to a dispatch; rolled and unrolled, one step to each. Their rounds alternate. "of peak"
    is what a step computes beside a large matrix product on the same devices, "of roofline" the least time that they
    need for its operations and bytes beside its own.
    """
    fields = {name: value for name, value in locals().items() if name not in ("variants", "format")}
    from resnet_jax.benchmark.train import VARIANTS, as_text, train_benchmark

    for name in variants.split(","):
        if name not in VARIANTS:
            raise InputError(f"--variants has {name!r}, but each must be one of {', '.join(VARIANTS)}")
    result = train_benchmark(**fields, variants={name: VARIANTS[name] for name in variants.split(",")})
    show(format, result, lambda: as_text(result))


@command
def benchmark_eval(
    *,
    model: str = "cifar_resnet20",
    shortcut: str | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    steps: int = 10,
    rounds: int = 5,
    format: Format = "table",
) -> None:
    """Measures how fast a network scores images that lie on the devices at hand.

    resnet-jax benchmark eval [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                              [--dtype=float32|bfloat16] [--steps=N] [--rounds=N] [--format=table|json]

    It runs what evaluate and predict run on a batch, --steps batches to a round.
    """
    fields = {name: value for name, value in locals().items() if name != "format"}
    from resnet_jax.benchmark.eval import as_text, eval_benchmark

    result = eval_benchmark(**fields)
    show(format, result, lambda: as_text(result))


@command
def benchmark_input(
    *,
    dataset: str,
    data_dir: Path | None = None,
    crop: Literal["random_scale", "random_resized_crop"] = "random_scale",
    image_size: int = 224,
    batch_size: int = 256,
    workers: list[int] | None = None,
    rounds: int = 5,
    seconds: float = 5.0,
    model: str | None = None,
    dtype: str = "float32",
    format: Format = "table",
) -> None:
    """Measures how fast images become training windows, and how many cores feed a device.

    resnet-jax benchmark input --dataset=imagenet2012|folder|cache --data_dir=DIR
                               [--crop=random_scale|random_resized_crop] [--image_size=224] [--batch_size=256]
                               [--workers=0,…] [--rounds=5] [--seconds=5] [--model=NAME [--dtype=float32|bfloat16]]
                               [--format=table|json]

    The training split is read in random order, in one thread and as training's batches with each number of workers,
    where 0 are threads on all cores. With --model its training step is measured on a batch that stays on the devices,
    and the table says how many cores one of these devices needs.
    """
    fields = {name: value for name, value in locals().items() if name not in ("workers", "format")}
    from resnet_jax.benchmark.input import as_text, input_benchmark

    result = input_benchmark(**fields, workers=workers or [0])
    show(format, result, lambda: as_text(result))


@command
def benchmark_compile(
    *,
    models: str = "cifar_resnet20,cifar_resnet110,cifar_resnet1202",
    batch_size: int = 128,
    image_size: int | None = None,
    dtype: str = "float32",
    rounds: int = 3,
    format: Format = "table",
) -> None:
    """Measures how long training steps take to trace, to compile and to read from a compilation cache.

    resnet-jax benchmark compile [--models=NAME,NAME,…] [--batch_size=N] [--image_size=N] [--dtype=float32|bfloat16]
                                 [--rounds=N] [--format=table|json]

    The others are compared with the first model. The cache is a temporary folder of its own.
    """
    fields: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("models", "format")}
    from resnet_jax.benchmark.compile import as_text, compile_benchmark

    result = compile_benchmark(models.split(","), **fields)
    show(format, result, lambda: as_text(result))


@command
def benchmark_memory(
    *,
    model: str = "cifar_resnet20",
    shortcut: str | None = None,
    batch_sizes: list[int] | None = None,
    image_size: int | None = None,
    dtype: str = "float32",
    format: Format = "table",
) -> None:
    """Says what a training step keeps in memory, by its compiled program; nothing is run.

    resnet-jax benchmark memory [--model=NAME] [--shortcut=A|B|C] [--batch_sizes=8,16,32] [--image_size=N]
                                [--dtype=float32|bfloat16] [--format=table|json]
    """
    fields: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("batch_sizes", "format")}
    from resnet_jax.benchmark.memory import as_text, memory_benchmark

    result = memory_benchmark(**fields, batch_sizes=batch_sizes or (8, 16, 32))
    show(format, result, lambda: as_text(result))
