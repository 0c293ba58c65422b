"""resnet-jax COMMAND: from the command line to the functions of `commands`."""

import contextlib
import errno
import gc
import importlib.metadata
import io
import logging as standard_logging
import os
import platform
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import logging

import resnet_jax
from resnet_jax.cli.commands import COMMANDS
from resnet_jax.cli.help import command_help, overview
from resnet_jax.errors import (
    LOST,
    STOPPED,
    WRONG,
    InputError,
    PeerLostError,
    Preempted,
    UserError,
    did_you_mean,
    is_passing,
    warn,
)
from resnet_jax.files import expanded


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status (see `errors`); bad input gives one line on stderr, an interruption
    130.
    """
    return exit_status(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def exit_status(work: Callable[[], object]) -> int:
    """Does some work, and returns the status that a process ends with then, after one line on stderr about what is a
    person's to mend: that of `main`, for programs beside the command line.
    """
    try:
        work()
        if sys.stdout is not None:
            sys.stdout.flush()  # whatever is wrong with it shows here
        return 0
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 0
        cause = error if isinstance(error, OSError) else error.__cause__
        if is_passing(cause):
            warn(f"error: {error}: run the same command again to go on")
            return LOST
        full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC and "the disk is full" not in str(error)
        warn(f"error: {'the disk is full: free some space and run the same command again' if full else error}")
        return WRONG
    except Preempted as stopped:
        warn(f"stopped: {stopped}; run the same command again to go on")
        return STOPPED
    except PeerLostError as lost:
        warn(
            f"error: another process of this run was lost: {lost}; "
            "run the same command again on every host to go on from the last checkpoint"
        )
        return LOST
    except KeyboardInterrupt:
        warn("interrupted: run the same command again to go on")
        return 130


def run() -> NoReturn:
    """The console script: `main`, and the end of the process."""
    # Tracing makes objects that live on: to look for garbage among them as often as Python does costs 7 % of a start.
    gc.set_threshold(10_000)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where the locale's encoding lacks a letter of a name
    try:
        status = main()
    except Exception:
        # The end of Python would wait for minutes for the other processes of a run, which wait for this one.
        traceback.print_exc()
        status = 1
    if status:
        # Threads of XLA or TensorStore that are left at work after an interruption or on a full disk can crash Python
        # while it tears itself down, or print tracebacks.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError):  # closed from the beginning, or by its reader
                stream.flush()
        os._exit(status)
    # TensorStore's threads may still have something to say while Python ends.
    sys.unraisablehook = _unraisable_hook
    # Python would look for garbage among all of JAX's objects as it ends, for 0.9 s after a training.
    gc.freeze()
    sys.exit(status)


def _run(argv: list[str]) -> None:
    if argv[:1] == ["help"]:  # as git has it
        argv = [*argv[1:], "--help"]
    if argv[:1] == ["--version"]:
        versions = (f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax"))
        print(f"resnet-jax {resnet_jax.__version__} ({', '.join(versions)}, Python {platform.python_version()})")
        return
    # A command is one word or two.
    first = argv[0] if argv else "--help"
    name = next((name for name in (" ".join(argv[:2]), first) if name in COMMANDS), None)
    longer = {each: command for each, command in COMMANDS.items() if each.startswith(f"{first} ")}
    wants_help = "--help" in argv or "-h" in argv
    if name == first and longer and len(argv) > 1 and not argv[1].startswith("-"):
        name = None  # of "prepare cahce"
    if name and wants_help:
        print(command_help(COMMANDS[name], argv))
    elif name:
        # A shell that starts waits for its completion, which needs nothing of this.
        with _set_up() if name != "completion" else contextlib.nullcontext():
            COMMANDS[name](argv[len(name.split()) :])
    elif first in ("-h", "--help") or (longer and wants_help):
        print(overview(longer or COMMANDS))
    else:
        given = first if len(argv) == 1 or not longer or argv[1].startswith("-") else f"{first} {argv[1]}"
        hint = did_you_mean(given, longer or COMMANDS)
        raise InputError(f"unknown command {given!r}: {hint}commands are {', '.join(longer or COMMANDS)}")


def _reader_is_gone() -> bool:
    """Whether who read what this prints, as `head`, has had enough; then the rest goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python would try once more at its end, and say that it could not.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


@contextlib.contextmanager
def _set_up() -> Iterator[None]:
    """What a command sets in its process, and no function of this package does: the compilation cache, quiet libraries.

    Where the process is not the command's own, it is afterwards as it was.
    """
    try:
        import jax
    except Exception as error:  # of variables such as JAX_NUM_CPU_DEVICES=x, or versions that do not fit each other
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        variables = ", ".join(sorted(name for name in os.environ if name.startswith(("JAX_", "XLA_"))))
        advice = f"; see whether {variables} in the environment is right" if variables else ""
        raise InputError(f"JAX does not start: {why}{advice}") from error
    from resnet_jax.data.quiet import quiet_pillow

    with contextlib.ExitStack() as stack:
        for name, value in _cache_settings().items():
            stack.callback(jax.config.update, name, getattr(jax.config, name))
            jax.config.update(name, value)
        # What Orbax logs as an error, with a traceback, it also raises; what Matplotlib warns of is no picture's end.
        stack.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity(logging.FATAL)
        # And gcsfs logs what it raises.
        for name, level in (("matplotlib", standard_logging.ERROR), ("gcsfs", standard_logging.CRITICAL)):
            logger = standard_logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        stack.enter_context(warnings.catch_warnings())
        pillow = standard_logging.getLogger("PIL")
        stack.callback(setattr, pillow, "handlers", list(pillow.handlers))
        quiet_pillow()
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = _unraisable_hook
        # Images are decoded on all cores already. OpenCV reads this where it is imported.
        if "OPENCV_FOR_THREADS_NUM" not in os.environ:
            os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
            stack.callback(os.environ.pop, "OPENCV_FOR_THREADS_NUM", None)
        yield


def _cache_settings() -> dict[str, Any]:
    """Where compiled programs are kept for the next start: nowhere, if there is no home or it cannot be written to."""
    if given := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        if "://" not in given:
            return {}
        from resnet_jax.distributed.machine import XLA_KEEPS_NOTHING

        return dict([XLA_KEEPS_NOTHING])
    try:
        cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "resnet_jax" / "xla"
    except InputError:
        return {}
    folder = next(path for path in (cache, *cache.absolute().parents) if os.path.exists(path))
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return {}
    return {"jax_compilation_cache_dir": str(cache), "jax_persistent_cache_min_compile_time_secs": 0.5}


def _unraisable_hook(unraisable: Any) -> None:
    """Keeps one line one line: TensorStore's threads print this when Orbax gives a save up, as on a full disk."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    run()
