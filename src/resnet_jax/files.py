"""Paths that people give, and files that are there as a whole or not at all."""

import errno
import fcntl
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from resnet_jax.errors import InputError, warn

__all__ = [
    "appended",
    "bucket_errors",
    "check_bucket",
    "check_writable",
    "expanded",
    "is_remote",
    "local_copy",
    "locked",
    "put",
    "sizes",
    "whole_file",
    "write_whole",
]

# An address, also where it has been made a Path, which leaves one slash of two.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expanded(given: str | os.PathLike[str], name: str = "a path", *, remote: bool = False) -> Path:
    """The path that somebody means: `~` and `~name` stand for a home. Expanding a path twice changes nothing.

    With `remote` it may be an address, gs:// or s3://, which becomes a path with the methods that this package uses;
    see `storage.objects.StoredPath`.

    Raises:
      InputError: it is empty, or another address, or there is no such home. `name` is of what it was given for, such as
        "--workdir".
    """
    try:
        text = os.fspath(given)
    except TypeError as error:
        raise InputError(f"{name} is of type {type(given).__name__}, but it must be text or a Path") from error
    if not text or "\0" in text:
        why = ": is a variable unset?" if not text else ""
        raise InputError(f"{name} is {text!r}, which names no file or folder{why}")
    if _ADDRESS.match(text):
        if remote:
            from resnet_jax.storage.objects import stored  # its imports would cost every start some time

            return cast(Path, stored(text, name))
        # A Path has left one slash of two.
        bucket = re.sub(":/+", "://", text, count=1) if text.startswith(("gs:", "s3:")) else "gs://…"
        raise InputError(
            f"{name} is {text}, which is no folder or file but an address, and it must lie on a file system: copy data "
            f"to a disk with resnet-jax prepare stage {bucket} --to=DIR, or give a path that is mounted, such as NFS "
            f"(a folder of that name is ./{text})"
        )
    path = Path(text)
    if text.startswith("~"):
        try:
            return path.expanduser()
        except RuntimeError as error:
            home = path.parts[0]
            raise InputError(f"{name} is {text}, but there is no home {home}: give the whole path") from error
    # A Path forgets the ./ of ./~, and would be another one when it is expanded again.
    return path.absolute() if str(path).startswith("~") or _ADDRESS.match(str(path)) else path


def __dir__() -> list[str]:
    return __all__


def is_remote(path: Path) -> bool:
    """Whether a path that `expanded` gave lies in a bucket."""
    return not isinstance(path, Path)


def check_bucket(path: Path) -> None:
    """An InputError where a path lies in a bucket that is not there or must not be looked into."""
    if is_remote(path):
        from resnet_jax.storage import objects

        objects.check_bucket(cast(Any, path))


@contextmanager
def bucket_errors(path: Path) -> Iterator[None]:
    """Where a path lies in a bucket: an error inside that comes of the bucket, not of what lies there, is one line."""
    if not is_remote(path):
        yield
        return
    from resnet_jax.storage.objects import told

    with told(path):
        yield


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that then takes the place of an old one: whenever the process is killed, one of the two is there.
    An InputError where it cannot be written.
    """
    if is_remote(path):
        data = io.BytesIO()
        yield data
        path.write_bytes(data.getvalue())
        return
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file that is there while the block lasts, for what reads none in a bucket: the path itself where it is on a
    disk.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def check_writable(path: Path) -> None:
    """Raises what `whole_file` would, before there is something to write."""
    if is_remote(path):
        _partial(path).write_bytes(b"")
        _partial(path).unlink()
        return
    try:
        _partial(path).open("wb").close()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        _partial(path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    # One name: what a killed process left is written over, not beside.
    return path.with_name(f".{path.name}.partial")


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[Callable[[], None]]:
    """Holds a lock file, until the block or the process ends, however it ends; where another process holds it,
    `refusal` is the message of an InputError.

    Gives a check, which raises an InputError where the lock is lost. Only that of a bucket can be, see `storage.lease`.
    """
    if is_remote(path):
        from resnet_jax.storage.lease import held

        with held(cast(Any, path), refusal) as check:
            yield check
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(refusal) from error
        except OSError as error:
            # Some network file systems have no locks.
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            warn(f"{path.parent} cannot be locked ({error.strerror}): see to it that no other run writes there")
        yield lambda: None


def appended(path: Path) -> IO[bytes]:
    """A file to append to. In a bucket it is written whole every half minute that something came, and by `put`."""
    if is_remote(path):
        from resnet_jax.storage.objects import Growing

        file = Growing(cast(Any, path))
        file.write(path.read_bytes() if path.exists() else b"")
        return cast(IO[bytes], file)
    return path.open("ab")


def put(file: IO[Any]) -> None:
    """Sees to it that what was written to an `appended` file is there for others."""
    getattr(file, "sync", file.flush)()


def sizes(folder: Path) -> dict[str, int]:
    """Of the files below a folder, in bytes, by their path from there."""
    if is_remote(folder):
        return cast(Any, folder).sizes()
    return {str(each.relative_to(folder)): each.stat().st_size for each in folder.rglob("*") if each.is_file()}


def write_whole(path: Path, data: str | bytes) -> None:
    """Writes all of a `whole_file` at once."""
    with whole_file(path) as file:
        # Names that are no UTF-8 can still be read in a file that is.
        file.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
