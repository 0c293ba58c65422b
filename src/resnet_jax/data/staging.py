"""A copy on a disk of data that lie in a bucket or on a slow file system, for data are read from disks alone.

The copy of a folder grows in another one beside it, `.NAME.partial`, which takes its name when every file is there. So
no training finds a part of a data set.
"""

import contextlib
import errno
import hashlib
import os
import queue
import shlex
import shutil
import stat
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from resnet_jax.data.contents import LOCK, File, contents, files_below, one_line
from resnet_jax.errors import InputError, Progress, no_progress, warn
from resnet_jax.files import expanded, is_remote, locked, whole_file

# Files that are copied at the same time, and bytes of each that are in memory.
_THREADS, _PART = 16, 8 * 2**20

# What a file of few bytes takes of most file systems.
_BLOCK = 4096

_MB, _GB = 10**6, 10**9


_Read = Callable[[str, int], Iterator[bytes]]


def stage(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    log: Callable[[str], None] = warn,
    progress: Progress = no_progress,
) -> Path:
    """Copies a folder of data to a disk; the same call goes on where an earlier one was killed.

    A file counts as copied when it has the size and the time of its original, and where a server keeps its MD5 it had
    that too. Where the destination already holds all files, by name and size, nothing is copied. Links are followed,
    and folders without files are left out.

    Args:
      source: the folder, on a file system or in a bucket, gs:// or s3://: of images, of data sets that TFDS prepared,
        or a cache.
      destination: of the copy: a new or an empty folder, or a complete copy.
      log: is given lines about what is copied and the space it takes.
      progress: shows how many megabytes (10^6 bytes) are copied.

    Returns:
      The folder of the copy.

    Raises:
      InputError: there are no files, or some that no disk can hold under their names; the destination holds something
        else; there is too little space; or the bucket or the disk cannot be used.

    Example:
      >>> folder = stage("gs://bucket/photos", "/scratch/photos")  # doctest: +SKIP
      >>> photos = image_folder(folder)  # doctest: +SKIP
    """
    origin = expanded(source, "the source", remote=True)
    # A link would not be followed where the copy takes its name.
    folder = expanded(destination, "the destination").resolve()
    if not folder.name:
        raise InputError(f"the destination is {folder}: give a folder below it")
    partial = folder.with_name(f".{folder.name}.partial")
    if not is_remote(origin):
        origin = origin.resolve()
        if folder.is_relative_to(origin):
            raise InputError(f"{folder} lies in {origin}, which is to be copied: give a folder outside of it")
    wanted = contents(origin, log)
    if _is_complete(folder, partial, wanted, origin):
        log(f"{folder} holds all {len(wanted):,} files of {origin} already: nothing is copied")
        return folder
    read = cast(Any, origin).reader() if is_remote(origin) else _reader(origin)
    with one_line(partial, "written"):
        partial.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            partial.chmod(stat.S_IMODE(folder.stat().st_mode))  # as private as the one whose place it takes
        with locked(partial / LOCK, f"another process is copying to {folder}: wait until it ends"):
            if _is_complete(folder, partial, wanted, origin):  # by another process, meanwhile
                with contextlib.suppress(OSError):
                    (partial / LOCK).unlink()
                    partial.rmdir()
                return folder
            missing = _missing(partial, wanted, origin)
            if len(missing) < len(wanted):
                log(f"{len(wanted) - len(missing):,} of {len(wanted):,} files are copied already")
            sizes = [wanted[name].size for name in missing]
            _check_space(partial, sizes, log)
            parts = _in_threads(lambda name: _copy(read, origin, name, wanted[name], partial / name), missing)
            with contextlib.closing(parts):
                for _ in progress(_megabytes(parts), sum(sizes) // _MB, "MB"):
                    pass
            if missing := _missing(partial, wanted, origin):
                raise InputError(f"{partial / missing[0]} was changed by another process: run the same command again")
            os.replace(partial, folder)
            (folder / LOCK).unlink()
    size = sum(file.size for file in wanted.values())
    log(f"{len(wanted):,} files in {folder}, {size / _GB:,.3f} GB: all that {origin} holds")
    return folder


def _is_complete(folder: Path, partial: Path, wanted: Mapping[str, File], origin: Path) -> bool:
    """Whether the folder holds all files; an InputError where it holds anything else, which is left as it is."""
    with one_line(folder, "read"):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give a new or an empty folder")
        there = files_below(folder)[0] if folder.is_dir() else {}
        there.pop(LOCK, None)  # of a process that was killed as soon as all was there
        anything = folder.is_dir() and any(folder.iterdir())
    others = sorted(there.keys() - wanted.keys())
    differing = {
        "missing": sorted(wanted.keys() - there.keys()),
        "of another size": [name for name, file in wanted.items() if name in there and there[name].size != file.size],
        "that are none of its": others,
    }
    if anything and any(differing.values()):
        about = ", ".join(f"{len(names):,} {how} ({names[0]})" for how, names in differing.items() if names)
        moved = shlex.join(["mv", str(folder), str(partial)])
        mend = "" if others or partial.exists() else f", or mend it by {moved} and the same command again"
        raise InputError(f"{folder} is no copy of {origin}: {about}: give a new or an empty folder{mend}")
    if not anything and os.path.ismount(folder):
        raise InputError(f"a file system is mounted at {folder}, so that it gets no other name: give {folder / 'data'}")
    return anything


def _missing(partial: Path, wanted: Mapping[str, File], origin: Path) -> list[str]:
    """The files that are not copied yet; an InputError where the folder holds others. What a killed process was
    writing is removed.
    """
    there, _ = files_below(partial)
    there.pop(LOCK, None)
    for name in there.keys() - wanted.keys():
        head, _, last = name.rpartition("/")
        original = os.path.join(head, last.removeprefix(".").removesuffix(".partial"))
        if last != f".{os.path.basename(original)}.partial" or original not in wanted:
            raise InputError(
                f"{partial} holds {name}, which {origin} does not: it is of another copy; remove it or give another "
                "folder"
            )
        (partial / name).unlink()
    return [name for name, file in wanted.items() if name not in there or not _is_copy(there[name], file)]


def _is_copy(ours: File, theirs: File) -> bool:
    # Some file systems keep times to two seconds.
    return ours.size == theirs.size and abs(ours.modified - theirs.modified) <= 2


def _check_space(folder: Path, sizes: Iterable[int], log: Callable[[str], None]) -> None:
    """Logs how much space files take, and refuses when there is less."""
    taken = [-(-size // _BLOCK) * _BLOCK for size in sizes]
    free = shutil.disk_usage(folder).free
    about = f"{len(taken):,} files take {sum(taken) / _GB:,.3f} GB in {folder}, where {free / _GB:,.3f} GB are free"
    if sum(taken) > free:
        raise InputError(f"{about}: free some space, or give a folder on another disk")
    log(about)


def _reader(origin: Path) -> _Read:
    """A function that reads a file below a folder in parts, as `StoredPath.reader` gives one for a bucket."""

    def read(name: str, size: int) -> Iterator[bytes]:
        with (origin / name).open("rb") as file:
            while part := file.read(_PART):
                yield part

    return read


def _copy(read: _Read, origin: Path, name: str, file: File, target: Path) -> Iterator[int]:
    """Copies a file, and gives the bytes of each part when it is written."""
    with one_line(target.parent, "written"):
        target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with whole_file(target) as out:
        for part in _told(read(name, file.size), f"{origin}/{name}"):
            out.write(part)
            size += len(part)
            if file.md5:
                digest.update(part)
            yield len(part)
        if size != file.size:
            raise _changed(f"{origin}/{name} had {file.size:,} bytes and gave {size:,}")
        if file.md5 and digest.digest() != file.md5:
            raise _changed(f"{origin}/{name} has another MD5 than its server says")
        out.flush()
        os.utime(out.fileno(), (file.modified, file.modified))


def _told(parts: Iterator[bytes], path: str) -> Iterator[bytes]:
    """The same, with one line where they cannot be read, which is then none about where they are written."""
    with one_line(path, "read"):
        yield from parts


def _changed(what: str) -> InputError:
    error = InputError(f"{what}: it came damaged, or changed meanwhile")
    # The command line tells from its cause that another start may find it mended.
    error.__cause__ = OSError(errno.EIO, what)
    return error


def _in_threads(copy: Callable[[str], Iterator[int]], names: Collection[str]) -> Generator[int]:
    """Copies files, a few at a time, and gives the bytes of each part when it is written.

    Where one cannot be copied, or nobody wants more, no other is begun, and whoever waits for a server is left alone.
    """
    waiting, taking, ended = iter(names), threading.Lock(), threading.Event()
    results: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while not ended.is_set():
                with taking:
                    name = next(waiting, None)
                if name is None:
                    break
                for size in copy(name):
                    if ended.is_set():
                        return
                    results.put(size)
        except Exception as error:
            results.put(error)
        else:
            results.put(None)

    threads = [threading.Thread(target=work, name="staging", daemon=True) for _ in range(min(_THREADS, len(names)))]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        ended.set()
        deadline = time.monotonic() + 1
        for thread in threads:
            if thread.ident:
                thread.join(max(deadline - time.monotonic(), 0))


def _megabytes(parts: Iterable[int]) -> Iterator[int]:
    """Gives one item for each megabyte of the parts, when it is complete."""
    done = 0
    for size in parts:
        yield from range(done // _MB, (done + size) // _MB)
        done += size
