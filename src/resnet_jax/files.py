"""Files that are there as a whole or not at all."""

import os
from pathlib import Path

from resnet_jax.errors import InputError


def write_whole(path: Path, data: str | bytes) -> None:
    """Writes a file in the place of an old one: whenever the process is killed, one of the two is there as a whole.

    Raises:
      InputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
