"""Objects of a bucket as paths; this file alone knows etils and fsspec, the way that Orbax takes to them too."""

import base64
import contextlib
import errno
import importlib.util
import os
import posixpath
import re
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import fsspec
from etils.epath import gpath
from fsspec import config

from resnet_jax.errors import InputError, UserError, causes, first_cause, lost_peer

# By scheme: the client that fsspec opens such addresses with, and the extra that brings it.
_CLIENTS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
# Seconds between two times that a growing object is written anew.
_PAUSE = 30.0
# Bytes of an object that are asked for at once: some of them, one for each thread, fit into any memory.
_PART = 8 * 2**20


def stored(text: str, name: str) -> "StoredPath":
    """The path of an address such as gs://bucket/runs/x, also where a Path has left one slash of its two.

    Raises:
      InputError: it is no address of a folder in a bucket, or its client is not installed.
    """
    scheme, _, rest = text.partition(":")
    if scheme not in _CLIENTS:
        raise InputError(
            f"{name} is {text}, which is no folder or file but an address: give a folder, on a file system or in a "
            "bucket (gs://… or s3://…)"
        )
    bucket, *parts = re.sub(r"/+", "/", rest).strip("/").split("/")
    if not bucket or {".", ".."} & {bucket, *parts}:
        raise InputError(f"{name} is {text}, but it must be a bucket and a folder in it, as {scheme}://bucket/runs/x")
    client, extra = _CLIENTS[scheme]
    if importlib.util.find_spec(client) is None:
        raise InputError(
            f"{name} is {text}, which needs {client}: pip install 'deep-residual-jax[{extra}]', or pip install {client}"
        )
    # Where TensorFlow is installed etils would take its client, which knows other variables and not S3.
    if "EPATH_USE_TF" not in os.environ:
        os.environ["EPATH_USE_TF"] = "false"
        gpath._is_tf_installed.cache_clear()
    # Listings that a client keeps do not show what other processes write.
    for protocol in (scheme, extra):
        settings = config.conf.setdefault(protocol, {})
        settings["use_listings_cache"] = False
        if scheme == "s3":
            # By itself it gives up a server that fails after 7 seconds, give or take 4.
            settings.setdefault("config_kwargs", {}).setdefault("retries", {"max_attempts": 10})
    return StoredPath(f"{scheme}://{'/'.join([bucket, *parts])}")


class StoredPath(gpath.PosixGPath):
    """An object or a folder of a bucket, with the methods of a `pathlib.Path` that this package uses.

    Etils takes an address for a relative path, makes the bucket of a mistyped name on S3, takes whatever goes wrong for
    absence, and each client has errors of its own: here absence is a FileNotFoundError, and all else an InputError.
    A file is written whole or not at all, and who reads it sees one or the other.
    """

    @property
    def _client(self) -> Any:
        return fsspec.filesystem(self.parts[1])

    def stat(self) -> Any:
        """The fields of `os.stat` that this package reads; `st_ino` changes with the content."""
        with told(self):
            info = self._client.info(str(self))
        seconds = _changed(info)
        version, folder = info.get("generation") or info.get("ETag"), info["type"] == "directory"
        times = {"st_mtime": seconds, "st_mtime_ns": int(seconds * 1e9)}
        return SimpleNamespace(st_ino=version, st_size=info["size"], is_folder=folder, **times)

    def exists(self) -> bool:
        return self._is(lambda found: True)

    def is_dir(self) -> bool:
        return self._is(lambda found: found.is_folder)

    def is_file(self) -> bool:
        return self._is(lambda found: not found.is_folder)

    def _is(self, kind: Any) -> bool:
        try:
            return kind(self.stat())
        except FileNotFoundError:
            return False

    def absolute(self) -> "StoredPath":
        return self

    def resolve(self, strict: bool = False) -> "StoredPath":
        return self

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: an object needs no folder."""

    def iterdir(self) -> Iterator["StoredPath"]:
        with told(self):
            found = self._client.ls(str(self), detail=False)
        # A client may name the folder itself, where an object marks it.
        return iter([self / name for each in found if (name := posixpath.basename(each)) and each != str(self)[5:]])

    def glob(self, pattern: str) -> Iterator["StoredPath"]:
        with told(self):
            return iter(list(super().glob(pattern)))

    def contents(self) -> Iterator[tuple[str, int, float, bytes | None]]:
        """Of all objects below, in order: the path from here, bytes, the last change in seconds since 1970, and the MD5
        where the server keeps one, as gs:// does of all that were not composed of others.
        """
        with told(self):
            found = self._client.find(str(self), detail=True)
        for name, info in sorted(found.items()):
            md5 = base64.b64decode(info["md5Hash"]) if info.get("md5Hash") else None
            yield name.removeprefix(f"{str(self)[5:]}/"), info["size"], _changed(info), md5

    def sizes(self) -> dict[str, int]:
        """Of all objects below, by their path from here, in order."""
        return {name: size for name, size, _, _ in self.contents()}

    def reader(self) -> Callable[[str, int], Iterator[bytes]]:
        """A function that reads an object below, whose path from here and size it is given: in parts of 8 MiB at most,
        of which each is asked for again where it fails. Threads share it, for each would make a client of its own.
        """
        client = self._client
        # Of an object that is asked for as a whole botocore compares the checksum; s3fs would look up its size first.
        whole = {"max_concurrency": 1} if self.parts[1] == "s3" else {}

        def read(name: str, size: int) -> Iterator[bytes]:
            path = f"{self}/{name}"
            for start in range(0, size, _PART):
                with told(path):
                    limits = whole if size <= _PART else {"start": start, "end": min(start + _PART, size)}
                    part = client.cat_file(path, **limits)
                yield part

        return read

    def read_bytes(self) -> bytes:
        with told(self):
            return self._client.cat_file(str(self))

    def write_bytes(self, data: bytes | bytearray, *, new: bool = False) -> int:
        """Writes the whole object; with `new` a FileExistsError where there is one, which the server decides."""
        with told(self):
            try:
                self._client.pipe_file(str(self), bytes(data), **({"mode": "create"} if new else {}))
            except OSError as error:
                # Two answers of S3 that its client does not know: another one was first, or is at the same time.
                said = " ".join(map(str, causes(error)))
                if new and re.search("PreconditionFailed|ConditionalRequestConflict", said):
                    raise FileExistsError(str(self)) from error
                raise
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        with told(self), contextlib.suppress(*[FileNotFoundError] if missing_ok else []):
            self._client.rm_file(str(self))


def _changed(info: Any) -> float:
    changed = info.get("mtime") or info.get("LastModified")
    return changed.timestamp() if changed else 0.0


class Growing:
    """A file of a bucket to append to, where nothing can be appended: the whole object is written anew now and then,
    when it is asked for, and at the end. It is no `io.IOBase`, which Python would close after the clients' threads.
    """

    def __init__(self, path: StoredPath):
        self._path, self._data, self._behind, self._written = path, bytearray(), False, time.monotonic()

    def write(self, data: bytes) -> int:
        self._data += data
        self._behind = True
        return len(data)

    def flush(self) -> None:
        if time.monotonic() - self._written >= _PAUSE:
            self.sync()

    def sync(self) -> None:
        if self._behind:
            self._behind, self._written = False, time.monotonic()  # what fails is not tried once more by `close`
            self._path.write_bytes(self._data)

    close = sync


def check_bucket(path: StoredPath) -> None:
    """An InputError where the bucket of a path is not there, or must not be looked into."""
    bucket = StoredPath(*path.parts[:3])
    if not bucket.exists():
        raise _no_bucket(path)


def _no_bucket(path: Any) -> InputError:
    bucket = "/".join(str(path).split("/")[:3])
    return InputError(f"there is no bucket {bucket}: make it, or see whether its name is right ({path} was given)")


# What clients and servers say, in the errors of gcsfs, s3fs, google.cloud.storage and TensorStore.
_SAYS = {
    "credentials": r"(?<!aws_)credential|RefreshError|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
    r"|anonymous caller|UNAUTHENTICATED|Unauthorized|, 401\b|\(401\)",
    "denied": r"Forbidden|Access ?Denied|PERMISSION_DENIED|does not have storage\.|\(403\)",
    # What cannot be found when an object is written is its bucket.
    "bucket": r"NoSuchBucket|bucket does not exist|\(404\).*HeadBucket|404.*/b/[^/ ]*\?"
    r"|FileNotFoundError \S*/upload/storage/v1/b/",
    "passing": r"UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|time(d )?out|connect|SlowDown|TooManyRequests"
    r"|Internal ?(Server ?)?Error|reduce your request rate|Service ?Unavailable|BadGateway|HttpError|ClientError"
    r"|ChecksumError|PayloadError|IncompleteRead",
}


def failure(path: Any, error: Exception) -> UserError | None:
    """What to tell of an error that the storage is the cause of, and not what lies there; else None."""
    chain = list(causes(error))
    text = " ".join(f"{type(each).__name__} {each}" for each in chain)
    # Without the folders of the path, whose words are not theirs.
    bucket, _, folders = str(path).partition("://")[2].partition("/")
    text = text.replace(f"{bucket}/{folders}", bucket) if folders else text
    first = first_cause(error)
    kind = next((kind for kind, said in _SAYS.items() if re.search(said, text, re.IGNORECASE)), None)
    absent = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
    # What TensorStore says of damage names numbers and all settings.
    if (isinstance(error, absent) and kind != "bucket") or "DATA_LOSS" in text or lost_peer(error):
        return None
    if kind == "credentials":
        login = "gcloud auth application-default login" if str(path).startswith("gs") else "aws configure"
        return InputError(f"{path} cannot be used without credentials that its bucket accepts: {login} ({first})")
    if kind == "denied" or any(isinstance(each, PermissionError) for each in chain):
        return InputError(
            f"{path} must not be used with these credentials ({first}): a run reads, lists, writes and removes objects "
            "there, and looks up the bucket; of data they are listed and read"
        )
    if kind == "bucket":
        return _no_bucket(path)
    if kind == "passing" or any(isinstance(each, OSError) and not isinstance(each, absent) for each in chain):
        refused = InputError(f"the storage of {path} does not answer as it should: {first}")
        # The command line tells such from what would go wrong again by its cause.
        refused.__cause__ = OSError(errno.EIO, first)
        return refused
    return None


@contextlib.contextmanager
def told(path: Any) -> Iterator[None]:
    """Turns what the clients raise inside into the errors that `StoredPath` has."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = failure(path, error)
        if refused is None:
            raise
        raise refused  # noqa: B904


def tensorstore_spec(path: str) -> dict[str, Any]:
    """Where TensorStore finds a path of S3. It does not read the variable for servers other than Amazon's."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": key}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        spec |= {"endpoint": endpoint, "aws_region": region}
    if "AWS_ACCESS_KEY_ID" in os.environ:
        spec["aws_credentials"] = {"type": "environment"}  # else its client logs each place that holds none
    return spec
