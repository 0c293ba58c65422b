"""Files that are there as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from resnet_jax.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that then takes the place of an old one: whenever the process is killed, one of the two is there.

    Raises:
      InputError: it cannot be written.
    """
    # One name: what a killed process left is written over, not beside.
    partial = path.with_name(f".{path.name}.partial")
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


def write_whole(path: Path, data: str | bytes) -> None:
    """Writes all of a `whole_file` at once."""
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
