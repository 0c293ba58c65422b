"""resnet-jax COMMAND: from the command line to functions. Every command is a function that can be called without it."""

import difflib
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import config_flags

from resnet_jax.arguments import (
    FORMAT,
    config_flag,
    default_workdir,
    given,
    integer,
    no_more,
    parse,
    parse_config,
    string,
    with_config_paths,
)
from resnet_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; bad input gives one line on stderr and exit status 2, an interruption 130."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(_help())
            return 0
        command, *arguments = argv
        if command not in _COMMANDS:
            close = difflib.get_close_matches(command, _COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(f"unknown command {command!r}: {hint}commands are {', '.join(_COMMANDS)}")
        if "--help" in arguments or "-h" in arguments:
            print(_COMMANDS[command].__doc__)
            return 0
        _set_up()
        _COMMANDS[command](arguments)
        return 0
    except (InputError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        said = "the disk is full: free some space and run the same command again" if full else error
        print(f"error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130


def run() -> NoReturn:
    """The console script: `main`, and the end of the process."""
    status = main()
    if status == 130:
        # Threads of XLA or TensorStore that an interruption left at work can crash Python while it tears itself down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _help() -> str:
    lines = [f"  {name:10} {(function.__doc__ or '').splitlines()[0]}" for name, function in _COMMANDS.items()]
    return "resnet-jax COMMAND [--help] …\n\n" + "\n".join(lines)


def _set_up() -> None:
    """What a process needs once: the compilation cache, quiet libraries."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # What Orbax logs as an error, with a traceback, it also raises.
    logging.set_verbosity(logging.FATAL)
    sys.excepthook = _except_hook
    # Grain refuses to start workers in a process whose absl flags were not parsed.
    flags.FLAGS.mark_as_parsed()


def _except_hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Keeps one line one line: TensorStore prints this from its threads when Orbax gives a save up, as on a full
    disk.
    """
    if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__excepthook__(kind, error, trace)


def train(arguments: Sequence[str]) -> None:
    """Trains a network, or goes on with what the workdir holds.

    resnet-jax train --config=NAME[:VARIANT]|FILE [--config.FIELD=VALUE …] [--workdir=DIR]

    The packaged configs are digits, cifar10 and cifar100; their files list the fields. The workdir is runs/NAME by
    default. Running the same command again goes on from the last checkpoint, or says that the run is complete.
    """
    values, rest = parse(arguments, config_flag, string("workdir"))
    no_more(rest)
    config = given(values.config, "config")
    from resnet_jax.training import loop

    loop.train(config, Path(values.workdir or default_workdir(arguments)))


def evaluate(arguments: Sequence[str]) -> None:
    """Scores a run's newest checkpoint on a whole split.

    resnet-jax evaluate --workdir=DIR [--protocol=center] [--split=test|train|validation] [--data_dir=DIR]
                        [--batch_size=N] [--format=table|json]
    """
    values, rest = parse(
        arguments,
        string("workdir"),
        string("protocol", "center", ("center",)),
        string("split", "test"),
        string("data_dir"),
        integer("batch_size"),
        FORMAT,
    )
    no_more(rest)
    from resnet_jax.evaluation.evaluate import evaluate as run

    score = run(Path(given(values.workdir, "workdir")), values.split, values.data_dir, values.batch_size)
    if values.format == "json":
        print(json.dumps(score))
    else:
        print(
            f"{score['split']} error {score['error']:.2%}, loss {score['loss']:.4f} "
            f"on {score['images']} images after {score['step']} iterations"
        )


def predict(arguments: Sequence[str]) -> None:
    """Names the five most probable classes of image files.

    resnet-jax predict --workdir=DIR [--format=table|json] IMAGE…
    """
    values, rest = parse(arguments, string("workdir"), FORMAT)
    directory = Path(given(values.workdir, "workdir"))
    if not rest:
        raise InputError("no image file was given: see --help")
    from resnet_jax.evaluation import predict as prediction
    from resnet_jax.evaluation.trained import load_trained

    results = prediction.predict_files(load_trained(directory, _complain), [Path(file) for file in rest])
    if values.format == "json":
        print(json.dumps(results))
        return
    for result in results:
        classes = ", ".join(f"{entry['name']} {entry['probability']:.1%}" for entry in result["classes"])
        print(f"{result['file']}: {classes}")


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
    values, rest = parse(
        arguments,
        config_flag,
        string("workdir"),
        lambda values, _: flags.DEFINE_multi_string("axis", [], "", flag_values=values),
    )
    no_more(rest)
    given(values.config, "config")
    from resnet_jax import sweep as sweeping

    source = next(arg for arg in with_config_paths(arguments) if arg.startswith("--config=")).partition("=")[2]
    overrides = config_flags.get_override_values(values["config"])

    def make_config(point):
        kept = {field: repr(value) if isinstance(value, tuple) else value for field, value in overrides.items()}
        return parse_config(source, [f"{field}={value}" for field, value in (kept | point).items()])

    sweeping.sweep(make_config, values.axis, Path(given(values.workdir, "workdir")))


def benchmark(arguments: Sequence[str]) -> None:
    """Measures how fast a network trains on the devices at hand.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--input=device|synthetic] [--variants=NAME,NAME,…]
                               [--steps=N] [--rounds=N] [--format=table|json]

    The variants are scanned (several steps to a dispatch, the default), rolled, unrolled, unrolled_scanned, and linen:
    the same network in plain nn.Conv and nn.BatchNorm. Their rounds alternate.
    """
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
    if rest != ["train"]:
        raise InputError(f"what to measure is {' '.join(rest) or 'missing'}, but it must be train: see --help")
    from resnet_jax import benchmark as benchmarks

    fields = values.flag_values_dict()
    for name in ("format", "variants"):
        fields.pop(name)
    result = benchmarks.train_benchmark(**fields, variants=values.variants.split(","))
    print(json.dumps(result, indent=2) if values.format == "json" else benchmarks.render(result))


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


def prepare(arguments: Sequence[str]) -> None:
    """Downloads a data set and prepares it for reading, once; needs the extra "prepare".

    resnet-jax prepare --dataset=cifar10|cifar100 [--data_dir=DIR]
    """
    values, rest = parse(arguments, string("dataset"), string("data_dir"))
    no_more(rest)
    from resnet_jax.data import sources

    print(f"prepared in {sources.prepare(given(values.dataset, 'dataset'), values.data_dir)}")


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    function.__name__: function for function in (train, evaluate, predict, summary, sweep, benchmark, convert, prepare)
}

if __name__ == "__main__":
    run()
