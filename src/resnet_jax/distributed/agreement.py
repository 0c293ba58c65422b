"""What the processes of a run must agree on before it starts; a single process agrees with itself."""

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax

# The key-value store of JAX's processes, which Orbax uses too, has no public name.
from jax._src.distributed import global_state

from resnet_jax.errors import InputError, PeerLostError

T = TypeVar("T")

# A file of another host can appear late where a network file system caches folders.
SEEN_WITHIN = 10.0
# Orbax waits for five minutes: so much later may a process ask whose peer has given a checkpoint up.
_ANSWER_WITHIN_MS = 600_000
_numbers = itertools.count()


def is_lead() -> bool:
    """Whether this is process 0, which writes logs, results and reports."""
    return jax.process_index() == 0


def exchange(own: Any) -> list[Any]:
    """The JSON-able values of all processes, in their order; all of them call it, equally often.

    Raises:
      InputError: the processes are not connected.
      PeerLostError: one of them does not answer within ten minutes.
    """
    number, count, own = next(_numbers), jax.process_count(), json.dumps(own)
    if count == 1:
        return [json.loads(own)]
    client = global_state.client
    if client is None:
        raise InputError(f"there are {count} processes, which are not connected: give --distributed, see --help")
    client.key_value_set(f"resnet_jax/exchange/{number}/{jax.process_index()}", own)
    answers = []
    try:
        for process in range(count):
            key = f"resnet_jax/exchange/{number}/{process}"
            answers.append(json.loads(client.blocking_key_value_get(key, _ANSWER_WITHIN_MS)))
    except jax.errors.JaxRuntimeError as error:
        raise PeerLostError(f"process {len(answers)} does not answer: see what it wrote") from error
    # All of them are here, so all have read the exchange before.
    if number > 0:
        client.key_value_delete(f"resnet_jax/exchange/{number - 1}/{jax.process_index()}")
    return answers


def together(act: Callable[[], T]) -> T:
    """What `act` gives, which looks at this host alone; where it is refused on one process, all of them refuse it.

    Raises, beside what `exchange` raises:
      InputError: on every process, that of the first one that has one, and which process that is where others have not
        the same.
    """
    found, error = None, None
    try:
        found = act()
    except InputError as refused:
        error = refused
    said = exchange(None if error is None else str(error))
    if error is not None and all(each == str(error) for each in said):
        raise error
    for process, each in enumerate(said):
        if each is not None:
            raise InputError(f"process {process}: {each}") from error
    return cast(T, found)


def check_same(what: str, facts: Mapping[str, Any], advice: str) -> None:
    """Refuses, on every process, a run whose processes differ in something; see `exchange` for what else is raised.

    Args:
      what: the facts are about, such as "data".
      facts: JSON-able, as this process knows them, by what they are called.
      advice: what to do where they differ.
    """
    lead, *others = exchange(dict(facts))
    for process, other in enumerate(others, start=1):
        differing = [
            f"{name} is {lead.get(name)!r} on process 0 and {other.get(name)!r} on process {process}"
            for name in sorted(lead | other)
            if lead.get(name) != other.get(name)
        ]
        if differing:
            raise InputError(f"the processes have different {what}: {', '.join(differing)}; {advice}")


def check_shared(directory: Path) -> None:
    """Makes the workdir of several processes, and refuses one that is not the same folder for all of them."""
    if jax.process_count() > 1:
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
        check_folder(directory)


def check_folder(folder: Path) -> None:
    """Every process writes a file to its `folder` and looks for those of the others; all are removed again.

    Raises, beside what `exchange` raises:
      InputError: on every process; one cannot write there, or does not see what others write.
    """
    token, count = exchange(uuid.uuid4().hex)[0], jax.process_count()
    paths = [folder / f".resnet-jax-{token}-{process}" for process in range(count)]
    own, error = paths[jax.process_index()], None
    try:
        try:
            own.write_bytes(b"whether the processes of a run share this folder\n")
        except (OSError, InputError) as failed:
            error = getattr(failed, "strerror", None) or str(failed)
        errors = exchange(error)
        unseen = exchange(_unseen({process: path for process, path in enumerate(paths) if errors[process] is None}))
    finally:
        with contextlib.suppress(OSError, InputError):
            own.unlink()
    for process, error in enumerate(errors):
        if error is not None:
            raise InputError(f"process {process} cannot write in {folder}: {error}")
    for process, others in enumerate(unseen):
        if others:
            raise InputError(
                f"{folder} is not shared: process {process} does not see what process {others[0]} writes there; use "
                "a workdir on a file system that all hosts mount"
            )


def _unseen(paths: dict[int, Path]) -> list[int]:
    """The processes whose files are still missing after a while."""
    missing, deadline = dict(paths), time.monotonic() + SEEN_WITHIN
    while True:
        for process, path in list(missing.items()):
            with contextlib.suppress(OSError, InputError):
                path.read_bytes()  # a folder's listing may come from a cache
                del missing[process]
        if not missing or time.monotonic() > deadline:
            return list(missing)
        time.sleep(0.2)
