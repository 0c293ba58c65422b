"""What a folder of data holds, on a disk or in a bucket, for a copy of it."""

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from resnet_jax.errors import InputError
from resnet_jax.files import check_bucket, is_remote

# What Linux allows for a name, in bytes, less what `files.whole_file` adds to it.
_LONGEST = 255 - len("..partial")

# A file in copies that are not complete.
LOCK = ".staging.lock"


class File(NamedTuple):
    """Bytes; the last change, in seconds since 1970; and the MD5, where a server keeps one."""

    size: int
    modified: float
    md5: bytes | None = None


@contextlib.contextmanager
def one_line(path: object, what: str) -> Iterator[None]:
    """Tells an OSError inside as an InputError: `path` cannot be read, written, or what else was tried."""
    try:
        yield
    except OSError as error:
        why = "it is gone" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise InputError(f"{path} cannot be {what}: {why}") from error


def contents(origin: Path, log: Callable[[str], None]) -> dict[str, File]:
    """The files to copy, by their path below the origin and sorted by it; an InputError where there are none."""
    if is_remote(origin):
        log(f"looking what {origin} holds")
        found = _objects(origin)
    elif not origin.is_dir():
        raise InputError(f"{origin} {'is a file' if origin.exists() else 'does not exist'}: give a folder of data")
    else:
        with one_line(origin, "read"):
            found, passed = files_below(origin)
        if passed:
            log(f"{len(passed):,} that are no files are passed over, or links that lead nowhere, such as {passed[0]}")
    if not found:
        raise InputError(f"{origin} holds no files: is its name right?")
    if LOCK in found:
        raise InputError(f"{origin} is a copy that is not complete: give the folder that it is made from")
    for name in found:
        _check_name(name, found, origin)
    return dict(sorted(found.items()))


def _objects(origin: Path) -> dict[str, File]:
    """Those below an address, without the empty ones that mark folders."""
    listed: list[tuple[str, int, float, bytes | None]] = []
    with contextlib.suppress(FileNotFoundError):
        listed = list(cast(Any, origin).contents())
    if not listed:
        check_bucket(origin)
    elif len(listed) == 1 and origin.is_file():
        raise InputError(f"{origin} is a file: give a folder of data")
    marks = {name for name, size, *_ in listed if size == 0 and (not name or name.endswith("/"))}
    return {name: File(size, changed, md5) for name, size, changed, md5 in listed if name not in marks}


def files_below(folder: Path) -> tuple[dict[str, File], list[str]]:
    """The files below a folder, and what is none; links are followed, but not into a folder that holds them."""
    found, passed = {}, []
    # With what tells the folders above from others.
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        below, above = waiting.pop()
        path = os.path.join(folder, below)
        here = (os.stat(path).st_dev, os.stat(path).st_ino)
        if here in above:
            passed.append(below)
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                name = os.path.join(below, entry.name)
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    is_folder = is_file = False  # a link that leads to itself
                if is_folder:
                    waiting.append((name, (*above, here)))
                elif is_file:
                    status = entry.stat()
                    found[name] = File(status.st_size, status.st_mtime)
                else:
                    passed.append(name)
    return found, passed


def _check_name(name: str, names: Collection[str], origin: Path) -> None:
    """An InputError where no disk can hold a file of that name beside the others."""
    parts = name.split("/")
    wrong = [each for each in parts if each in ("", ".", "..") or "\0" in each or len(os.fsencode(each)) > _LONGEST]
    if wrong:
        raise InputError(
            f"{f'{origin}/{name}'!r} cannot be copied to a disk, where nothing is called {wrong[0][:50]!r}: rename it "
            "there"
        )
    for end in range(1, len(parts)):
        if (above := "/".join(parts[:end])) in names:
            raise InputError(
                f"{origin}/{above} would have to be a file and, for {name}, a folder too, which no disk can hold: "
                "rename one of them there"
            )
