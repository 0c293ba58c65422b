"""resnet-jax COMMAND: from the command line to the functions of `commands`."""

import difflib
import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import logging

from resnet_jax.commands import COMMANDS
from resnet_jax.errors import LOST, STOPPED, WRONG, InputError, LostError, Stopped, is_passing
from resnet_jax.supervisor import supervise


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status (see `errors`); bad input gives one line on stderr, an interruption
    130.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(_help())
            return 0
        command, *arguments = argv
        if command not in COMMANDS:
            close = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(f"unknown command {command!r}: {hint}commands are {', '.join(COMMANDS)}")
        if "--help" in arguments or "-h" in arguments:
            print(COMMANDS[command].__doc__)
            return 0
        _set_up()
        COMMANDS[command](arguments)
        return 0
    except (InputError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if is_passing(cause):
            print(f"error: {error}: run the same command again to go on", file=sys.stderr)
            return LOST
        full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC and "the disk is full" not in str(error)
        said = "the disk is full: free some space and run the same command again" if full else error
        print(f"error: {said}", file=sys.stderr)
        return WRONG
    except Stopped as stopped:
        print(f"stopped: {stopped}; run the same command again to go on", file=sys.stderr)
        return STOPPED
    except LostError as lost:
        print(
            f"error: another process of this run was lost: {lost}; "
            "run the same command again on every host to go on from the last checkpoint",
            file=sys.stderr,
        )
        return LOST
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130


def run() -> NoReturn:
    """The console script: `main`, and the end of the process."""
    # Tracing makes objects that live on: to look for garbage among them as often as Python does costs 7 % of a start.
    gc.set_threshold(10_000)
    if any(argument.startswith("--distributed") for argument in sys.argv):
        supervise()
    try:
        status = main()
    except Exception:
        # The end of Python would wait for minutes for the other processes of a run, which wait for this one.
        traceback.print_exc()
        status = 1
    if status:
        # Threads of XLA or TensorStore that are left at work after an interruption or on a full disk can crash Python
        # while it tears itself down, or print tracebacks.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _help() -> str:
    lines = [f"  {name:10} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
    return "resnet-jax COMMAND [--help] …\n\n" + "\n".join(lines)


def _set_up() -> None:
    """What a process needs once: the compilation cache, quiet libraries."""
    import jax

    from resnet_jax.data.image_files import quiet_pillow

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnet_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # What Orbax logs as an error, with a traceback, it also raises.
    logging.set_verbosity(logging.FATAL)
    quiet_pillow()
    sys.unraisablehook = _unraisable_hook


def _unraisable_hook(unraisable: Any) -> None:
    """Keeps one line one line: TensorStore's threads print this when Orbax gives a save up, as on a full disk."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    run()
