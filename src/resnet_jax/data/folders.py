"""Which files of a folder are images: one walk, for training, for `predict`, and for caches made of folders."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resnet_jax.data.image_files import HEIF_SUFFIXES, suffixes
from resnet_jax.errors import InputError

# What a message says of a folder or a split.
NO_IMAGES = "holds no images (.jpg, .png and whatever else Pillow reads)"


# Why a folder is passed over to which several ways lead.
_AGAIN = "entered already"
_CLOSED = "without permission to read it"


class Found(NamedTuple):
    """What a walk found.

    Attributes:
      images: paths below the folder, sorted by their parts.
      passed: of each file or folder that was passed over (reason, path below the folder).
    """

    images: list[str]
    passed: list[tuple[str, str]]


def image_files(folder: str | Path) -> Found:
    """The image files in a folder and in the folders below it.

    A name with a suffix of an image is one, whatever its case, and without one it is none. What is hidden, a name that
    begins with a dot, is not entered. Links are followed. No folder is entered twice, so that links in a circle end.

    Raises:
      InputError: a folder that cannot be read.
    """
    images, passed = [], []
    known = suffixes()
    for below, entries, problems in _walk(str(folder)):
        passed += problems
        for entry in entries:
            path, suffix = os.path.join(below, entry.name), os.path.splitext(entry.name)[1].lower()
            if suffix not in known:
                hint = " (pip install pillow-heif reads them)" if suffix in HEIF_SUFFIXES else ""
                passed.append((f"{suffix}{hint}" if suffix else "without a suffix", path))
            elif problem := _problem(entry):
                passed.append((problem, path))
            else:
                images.append(path)
    return Found(sorted(images, key=lambda path: path.split(os.sep)), passed)


def folders(folder: str | Path) -> Iterator[str]:
    """The folder and all that are below it, as `image_files` enters them."""
    for below, _, passed in _walk(str(folder)):
        if (_AGAIN, below) not in passed and (_CLOSED, below) not in passed:
            yield os.path.join(folder, below) if below else str(folder)


def _walk(folder: str) -> Iterator[tuple[str, list[os.DirEntry[str]], list[tuple[str, str]]]]:
    """(path below the folder, files, what is passed over) of the folder and of all below it."""
    # A link to a folder that holds this one would bring in all that lies beside it.
    # Names alone can lie: `link/..` need not be where the link is.
    above = {path for made in (os.path.abspath, os.path.realpath) for path in Path(made(folder)).parents}
    entered = {_identity(path) for path in above if path.exists()}
    # Links wait for the folders, of which they are then found to lead to one that was entered.
    waiting, links = [""], []
    while waiting or links:
        below = waiting.pop() if waiting else links.pop(0)
        path = os.path.join(folder, below) if below else folder
        try:
            identity = _identity(path)
            entries = listed(path) if identity not in entered else []
        except (OSError, InputError):
            if not below:
                raise
            yield below, [], [(_CLOSED, below)]
            continue
        if identity in entered:
            yield below, [], [(_AGAIN, below)]
            continue
        entered.add(identity)
        files, inside, problems = [], [], []
        for entry in entries:
            name = os.path.join(below, entry.name)
            if entry.name.startswith("."):
                problems.append(("hidden", name))
            elif is_folder(entry):
                (links if entry.is_symlink() else inside).append(name)
            else:
                files.append(entry)
        waiting += reversed(inside)
        yield below, files, problems


def _identity(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name.

    Raises:
      InputError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _problem(entry: os.DirEntry[str]) -> str:
    """Why a file is passed over; "" where it is not. To open a pipe would wait for another process, perhaps forever."""
    try:
        if not entry.is_file():
            return "no regular file" if os.path.exists(entry.path) else "linked to nothing"
    except OSError:  # links in a circle
        return "linked to nothing"
    return "" if os.access(entry.path, os.R_OK) else _CLOSED


def describe(passed: Mapping[str, Sequence[tuple[str, str]]], most: int = 20) -> str:
    """What was passed over, and why: "3 in cat (2 .heic, 1 hidden), 1 in dog (1 linked to nothing: a.jpg)".

    Args:
      passed: by class, see `Found`.
      most: classes that are named.
    """
    some = [(name, each) for name, each in passed.items() if each]
    parts = [f"{len(each)} in {name} ({reasons(each)})" for name, each in some[:most]]
    if rest := [one for _, each in some[most:] for one in each]:
        parts.append(f"{len(rest)} in {len(some) - most} other classes ({reasons(rest)})")
    return ", ".join(parts)


def reasons(passed: Sequence[tuple[str, str]]) -> str:
    """How many were passed over for each reason, the most frequent one first; of what is broken, the first name."""
    parts = []
    for reason, count in Counter(reason for reason, _ in passed).most_common():
        first = next(path for other, path in passed if other == reason)
        parts.append(f"{count} {reason}" + (f": {first}" if reason in _BROKEN else ""))
    return ", ".join(parts)


# Reasons of which a name is given.
_BROKEN = ("no regular file", "linked to nothing", _CLOSED, _AGAIN)
