"""resnet-jax COMMAND: from the command line to functions. Every command is a function that can be called without it."""

import difflib
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from resnet_jax.configs import Config
from resnet_jax.errors import InputError

# Defines a flag among the values; argv is the whole command line.
Definition = Callable[[flags.FlagValues, list[str]], Any]

_CONFIGS = Path(__file__).parent / "configs"


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


def _parse(arguments: Sequence[str], *define: Definition) -> tuple[flags.FlagValues, list[str]]:
    """Parses flags that `define` defines; returns their values and the other arguments.

    Raises:
      InputError: a flag or a config field that does not exist, or a value of another type.
    """
    arguments = _with_config_paths(arguments)
    values = flags.FlagValues()
    argv = ["resnet-jax", *arguments]
    for definition in define:
        definition(values, argv)
    try:
        return values, values(argv)[1:]
    except flags.Error as error:
        # The last line says what is wrong; before it may stand the traceback of a config file.
        raise InputError(str(error).strip().splitlines()[-1].removeprefix("resnet_jax.errors.InputError: ")) from error
    except (AttributeError, KeyError) as error:  # ml_collections says which field there is instead, on a second line
        said = " ".join(str(error.args[0]).replace("\\n", "\n").split("\n")[1:]).strip("\"' ")
        raise InputError(f"there is no such config field: {said or error}") from error
    except OSError as error:
        raise InputError(str(error).splitlines()[-1].strip()) from error


def _with_config_paths(arguments: Sequence[str]) -> list[str]:
    """Puts the path of a packaged config where its name is: --config=digits:plain ->
    --config=…/configs/digits.py:plain.
    """
    joined = list(arguments)
    for i, argument in enumerate(joined[:-1]):
        if argument == "--config":
            joined[i : i + 2] = [f"--config={joined[i + 1]}"]
            break
    for i, argument in enumerate(joined):
        if argument.startswith("--config="):
            joined[i] = f"--config={_config_path(argument.removeprefix('--config='))}"
    return joined


def _config_path(source: str) -> str:
    name, colon, variant = source.partition(":")
    if name in _PACKAGED:
        return f"{_CONFIGS / name}.py{colon}{variant}"
    if not Path(name).is_file():
        close = difflib.get_close_matches(name, _PACKAGED, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"--config={source} is neither a file nor a packaged config: {hint}these are {', '.join(_PACKAGED)}"
        )
    return source


def _config_flag(values: flags.FlagValues, argv: list[str]) -> None:
    # It looks for overrides of the config's fields in all of argv.
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)


def _string(name: str, default: str | None = None, choices: Sequence[str] = ()) -> Definition:
    if choices:
        return lambda values, _: flags.DEFINE_enum(name, default, choices, "", flag_values=values)
    return lambda values, _: flags.DEFINE_string(name, default, "", flag_values=values)


def _integer(name: str, default: int | None = None) -> Definition:
    return lambda values, _: flags.DEFINE_integer(name, default, "", flag_values=values)


def _given(value: Any, flag: str) -> Any:
    if value is None:
        raise InputError(f"--{flag} is missing: see --help")
    return value


def _no_more(rest: Sequence[str]) -> None:
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}: see --help")


_FORMAT = _string("format", "table", ("table", "json"))


def _except_hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Keeps one line one line: TensorStore prints this from its threads when Orbax gives a save up, as on a full
    disk.
    """
    if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__excepthook__(kind, error, trace)


def parse_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Loads a config and overrides fields of it.

    Args:
      source: a packaged config, "digits"; one of its variants, "digits:plain"; or a path to a file with `get_config`.
      overrides: such as "model.depth=56".

    Raises:
      InputError: no such config, variant or field, or a value of another type.
    """
    values, _ = _parse([f"--config={source}", *(f"--config.{override}" for override in overrides)], _config_flag)
    return values.config


def train(arguments: Sequence[str]) -> None:
    """Trains a network, or goes on with what the workdir holds.

    resnet-jax train --config=NAME[:VARIANT]|FILE [--config.FIELD=VALUE …] [--workdir=DIR]

    The packaged configs are digits, cifar10 and cifar100; their files list the fields. The workdir is runs/NAME by
    default. Running the same command again goes on from the last checkpoint, or says that the run is complete.
    """
    values, rest = _parse(arguments, _config_flag, _string("workdir"))
    _no_more(rest)
    config = _given(values.config, "config")
    from resnet_jax.training import loop

    loop.train(config, Path(values.workdir or _default_workdir(arguments)))


def _default_workdir(arguments: Sequence[str]) -> Path:
    path = next(argument for argument in _with_config_paths(arguments) if argument.startswith("--config="))
    file, _, variant = path.removeprefix("--config=").partition(":")
    return Path("runs", Path(file).stem + (f"-{variant}" if variant else ""))


def evaluate(arguments: Sequence[str]) -> None:
    """Scores a run's newest checkpoint on a whole split.

    resnet-jax evaluate --workdir=DIR [--protocol=center] [--split=test|train|validation] [--data_dir=DIR]
                        [--batch_size=N] [--format=table|json]
    """
    values, rest = _parse(
        arguments,
        _string("workdir"),
        _string("protocol", "center", ("center",)),
        _string("split", "test"),
        _string("data_dir"),
        _integer("batch_size"),
        _FORMAT,
    )
    _no_more(rest)
    from resnet_jax.evaluation.evaluate import evaluate as run

    score = run(Path(_given(values.workdir, "workdir")), values.split, values.data_dir, values.batch_size)
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
    values, rest = _parse(arguments, _string("workdir"), _FORMAT)
    directory = Path(_given(values.workdir, "workdir"))
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
    values, rest = _parse(arguments, _string("model"), _string("shortcut"), _integer("image_size"), _FORMAT)
    _no_more(rest)
    from resnet_jax.analysis.complexity import run_summary

    try:
        print(run_summary(_given(values.model, "model"), values.shortcut, values.image_size, values.format))
    except ValueError as error:
        raise InputError(str(error)) from error


def sweep(arguments: Sequence[str]) -> None:
    """Trains one run for each point of a grid of config fields, and prints the table of results.

    resnet-jax sweep --config=NAME --axis model.depth=20,32 --axis seed=0,1,2 [--config.FIELD=VALUE …] --workdir=DIR

    Running the same command again skips the points that are complete.
    """
    values, rest = _parse(
        arguments,
        _config_flag,
        _string("workdir"),
        lambda values, _: flags.DEFINE_multi_string("axis", [], "", flag_values=values),
    )
    _no_more(rest)
    _given(values.config, "config")
    from resnet_jax import sweep as sweeping

    source = next(arg for arg in _with_config_paths(arguments) if arg.startswith("--config=")).partition("=")[2]
    overrides = config_flags.get_override_values(values["config"])

    def make_config(point):
        given = {field: repr(value) if isinstance(value, tuple) else value for field, value in overrides.items()}
        return parse_config(source, [f"{field}={value}" for field, value in (given | point).items()])

    sweeping.sweep(make_config, values.axis, Path(_given(values.workdir, "workdir")))


def benchmark(arguments: Sequence[str]) -> None:
    """Measures how fast a network trains on the devices at hand.

    resnet-jax benchmark train [--model=NAME] [--shortcut=A|B|C] [--batch_size=N] [--image_size=N]
                               [--dtype=float32|bfloat16] [--input=device|synthetic] [--variants=NAME,NAME,…]
                               [--steps=N] [--rounds=N] [--format=table|json]

    The variants are scanned (several steps to a dispatch, the default), rolled, unrolled, unrolled_scanned, and linen:
    the same network in plain nn.Conv and nn.BatchNorm. Their rounds alternate.
    """
    values, rest = _parse(
        arguments,
        _string("model", "cifar_resnet20"),
        _string("shortcut"),
        _integer("batch_size", 128),
        _integer("image_size"),
        _string("dtype", "float32"),
        _string("input", "device"),
        _string("variants", "scanned"),
        _integer("steps", 10),
        _integer("rounds", 5),
        _FORMAT,
    )
    if rest != ["train"]:
        raise InputError(f"what to measure is {' '.join(rest) or 'missing'}, but it must be train: see --help")
    from resnet_jax import benchmark as benchmarks

    fields = values.flag_values_dict()
    for name in ("format", "variants"):
        fields.pop(name)
    result = benchmarks.train_benchmark(**fields, variants=values.variants.split(","))
    print(json.dumps(result, indent=2) if values.format == "json" else benchmarks.render(result))


def prepare(arguments: Sequence[str]) -> None:
    """Downloads a data set and prepares it for reading, once; needs the extra "prepare".

    resnet-jax prepare --dataset=cifar10|cifar100 [--data_dir=DIR]
    """
    values, rest = _parse(arguments, _string("dataset"), _string("data_dir"))
    _no_more(rest)
    from resnet_jax.data import sources

    print(f"prepared in {sources.prepare(_given(values.dataset, 'dataset'), values.data_dir)}")


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


_PACKAGED = tuple(sorted(path.stem for path in _CONFIGS.glob("*.py") if path.stem not in ("__init__", "base")))
_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    function.__name__: function for function in (train, evaluate, predict, summary, sweep, benchmark, prepare)
}

if __name__ == "__main__":
    sys.exit(main())
