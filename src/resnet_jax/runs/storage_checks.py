"""How fast and how reliable the storage of a run and of its images is, as `resnet-jax doctor` tells it."""

import contextlib
import io
import os
import shutil
import statistics
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import jax
import numpy as np

from resnet_jax import models
from resnet_jax.configs.base import Config
from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.tiles import ImageData, TiledJpeg
from resnet_jax.errors import InputError, first_cause
from resnet_jax.files import is_remote, locked, write_whole
from resnet_jax.runs import build
from resnet_jax.training.state import trained

# Seconds: what a small file may take, and a checkpoint, before it is worth a word.
SLOW_FILE, SLOW_SAVE = 0.5, 60.0
# Small files and images that are timed at most, and the seconds after which no further one is begun.
_FILES, _IMAGES, _SECONDS = 9, 32, 2.0
# Bytes of a large file. A larger one follows only where it would take less than so many seconds.
_SMALLEST, _LARGEST, _GROWTH, _LONGEST = 2**19, 2**25, 8, 10.0


def examine(folder: Path, checkpoint: int | None = None, free: int | None = None) -> tuple[str, str]:
    """Writes files to a folder that is there, on a disk or in a bucket, and reads and removes them again.

    It takes a quarter of a minute at most, and longer only where half a MiB does.

    Args:
      folder: what runs are to be written in.
      checkpoint: the bytes of one, see `checkpoint_bytes`; None where that is not known.
      free: bytes of the disk; files beyond half a MiB are no larger than a quarter of them.

    Returns:
      what was found, in words, and what to do about it ("" where all is well).

    Raises:
      InputError: a run would not be safe there, or not possible.
    """
    says, advice = [], []
    with _file(folder) as file:
        if is_remote(folder):
            _check_objects(file)
        else:
            if not _excludes(file.with_name("lock")):
                says.append("a lock excludes nobody there")
                advice.append("see to it that no other run writes there")
            if not _replaces(file):
                says.append("a file that is replaced there is not whole all the time")
                advice.append("use another file system, or read nothing of a run while it trains")
        latency, (size, writing, reading) = _latency(file), _speed(file, free)
    says.append(
        f"a small file is written and read in {_number(1e3 * latency)} ms, {size / 2**20:g} MiB are written at "
        f"{_number(size / 1e6 / writing)} MB/s and read at {_number(size / 1e6 / reading)}"
    )
    saving = 0.0
    if checkpoint is not None:
        saving = checkpoint / size * writing
        says.append(f"a checkpoint of {_number(checkpoint / 1e6)} MB takes at least {_number(saving)} s")
    if latency > SLOW_FILE or saving > SLOW_SAVE:
        advice.append("use a faster workdir, or save seldom: config.train.checkpoint_every")
    return "; ".join(says), "; ".join(advice)


def checkpoint_bytes(config: Config, num_classes: int, image_shape: tuple[int, ...]) -> int:
    """The bytes of the arrays in a checkpoint: variables, their averages and the optimiser's state; nothing is drawn.

    Args:
      config: of the run, which `checks.check` has passed.
      num_classes, image_shape: of its data; the shape is (height, width, channels).
    """
    model, optimizer = build.model(config, num_classes), build.optimizer(config, train_images=1)
    variables = models.abstract_variables(model, image_shape)
    copies = 1 if config.train.ema_decay is None else 2
    parts = [variables] * copies, jax.eval_shape(optimizer.init, trained(model, variables)["params"])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts))


def examine_images(source: ImageSource) -> tuple[str, str]:
    """Reads some images of a data set without decoding them, always the same ones; returns as `examine` does.

    Raises:
      InputError: one of them cannot be read.
    """
    chosen = np.random.default_rng(0).choice(len(source), min(len(source), _IMAGES), replace=False)
    times, size = [], 0
    for index in chosen.tolist():
        began = perf_counter()
        try:
            size += _read(source[index].data)
        except Exception as error:  # of whatever reads them: the other processes wait
            raise InputError(f"photograph {index} to train on cannot be read: {first_cause(error)}") from error
        times.append(perf_counter() - began)
        if sum(times) > _SECONDS:
            break
    each = statistics.median(times)
    says = f"{len(times)} of them are read in {_number(1e3 * each)} ms each, {_number(size / 1e6 / sum(times))} MB/s"
    return says, "copy them to a disk of every host" if each > SLOW_FILE else ""


def _number(value: float) -> str:
    """With three digits or more: what is found can be 0.0234 and 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _read(data: ImageData) -> int:
    """The bytes of an image."""
    if isinstance(data, np.ndarray):
        return len(data.tobytes())  # mapped, and read only now
    return len(data.data if isinstance(data, TiledJpeg) else data)


@contextlib.contextmanager
def _file(folder: Path) -> Iterator[Path]:
    """A name for a file in a new folder, which is gone afterwards; what goes wrong inside is an InputError."""
    place = folder / f".resnet-jax-{uuid.uuid4().hex}"
    try:
        place.mkdir()
        yield place / "file"
    except OSError as error:
        raise InputError(f"{folder} cannot be used: {error.strerror or error}") from error
    finally:
        if is_remote(place):
            (place / "file").unlink(missing_ok=True)
        else:
            shutil.rmtree(place, ignore_errors=True)


def _check_objects(file: Path) -> None:
    """Refuses a bucket in which the lock of a run would not hold, see `storage.lease`."""
    folder = file.parent.parent
    advice = "two runs could write there at once: use another server, or a workdir on a disk"
    file.write_bytes(b"first")
    refused = False
    try:
        cast(Any, file).write_bytes(b"second", new=True)
    except FileExistsError:
        refused = True
    if not refused or file.read_bytes() != b"first":
        wants = "ifGenerationMatch=0" if str(folder).startswith("gs") else "If-None-Match: *"
        raise InputError(f"{folder} cannot be locked: its server takes no notice of {wants}, and {advice}")
    listed: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        listed = [each.name for each in file.parent.iterdir()]
    if file.name not in listed:
        raise InputError(f"{folder} cannot be locked: its server does not list what was just written, and {advice}")


def _excludes(lock: Path) -> bool:
    """Whether a lock that is held is refused to who opens its file once more."""
    # Where there are no locks it warns of that, as the finding does.
    with contextlib.redirect_stderr(io.StringIO()), locked(lock, "held"):
        try:
            with locked(lock, "held"):
                return False
        except InputError:
            return True


def _replaces(file: Path) -> bool:
    """Whether who has a file open that is replaced goes on to read the old one."""
    old, new = b"old" * 1000, b"new"
    write_whole(file, old)
    try:
        with file.open("rb") as reader:
            write_whole(file, new)
            return reader.read() == old
    except (OSError, InputError):  # some file systems do not replace what is open
        return False


def _latency(file: Path) -> float:
    """The median of the seconds in which a small file is replaced and read."""
    times: list[float] = []
    while len(times) < _FILES and sum(times) < _SECONDS:
        times.append(sum(_written_and_read(file, b"%d" % len(times))))
    return statistics.median(times)


def _speed(file: Path, free: int | None) -> tuple[int, float, float]:
    """The bytes of a large file, and the seconds in which it is written and read."""
    size = _SMALLEST
    while True:
        writing, reading = _written_and_read(file, os.urandom(size))
        larger = size * _GROWTH
        room = free is None or 4 * larger <= free
        if larger > _LARGEST or not room or (writing + reading) * _GROWTH > _LONGEST:
            return size, writing, reading
        size = larger


def _written_and_read(file: Path, data: bytes) -> tuple[float, float]:
    began = perf_counter()
    write_whole(file, data)
    written = perf_counter()
    if not is_remote(file) and hasattr(os, "posix_fadvise"):
        # Else it would be read from memory.
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    opening = perf_counter()
    found = file.read_bytes()
    read = perf_counter()
    if found != data:
        raise InputError(
            f"{file.parent.parent} gives back something else than was just written: use a workdir on other storage"
        )
    return written - began, read - opening
