"""A cache of photographs, for machines whose cores cannot feed the accelerator: the command `resnet-jax prepare cache`.

Reading it is `data.photographs`. A cache is a folder of

    cache.json                  what it was made from and how; "complete" is true when all of it is there
    train-00000.photographs     5,000 photographs, one behind the other, as `photographs.CACHE_ROW` says
    train-00000.npy             their rows: this file is there when the other one is complete
    train.npy                   the rows of the whole split, without damaged photographs
    validation-…                likewise
"""

import itertools
import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.decode import UnreadableImageError, decode, resample
from resnet_jax.data.image_files import UprightFile, orientation
from resnet_jax.data.passes import in_threads
from resnet_jax.data.photographs import (
    CACHE_ROW,
    SPLITS,
    FolderPhotographs,
    PhotographDataset,
    Photographs,
    cache_file,
    open_photographs,
)
from resnet_jax.data.tiles import ImageData, TiledJpeg, encode_tiles
from resnet_jax.data.windows import Box, resized_size
from resnet_jax.errors import InputError, Progress, no_progress
from resnet_jax.files import expanded, whole_file, write_whole

FORMS = ("raw", "jpeg")

# Photographs in a file: what a kill loses at most.
_SHARD = 5_000

# Photographs that the size of a cache is estimated from: to about 2 %.
_SAMPLE = 300

# What libjpeg writes at most, in a row or a column.
_LONGEST_JPEG = 65_500


def write_cache(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    folder: Path,
    *,
    form: str = "raw",
    shorter_side: int | None = None,
    quality: int = 95,
    say: Callable[[str], None],
    progress: Progress = no_progress,
) -> None:
    """Writes both splits of a data set as a cache, on all cores; the same call goes on where an earlier one was killed.

    A photograph whose shorter side is longer than `shorter_side` is resized to it, antialiased and bicubic; no
    photograph grows. Those of a folder are turned as their EXIF orientation says, unless they are ImageNet's (see
    `open_photographs`); the orientation itself is not kept. Damaged photographs are left out, and named.

    Args:
      name, data_dir: of the source, see `open_photographs`.
      folder: of the cache: new, empty, or that of an earlier call with the same arguments.
      form: "raw": pixels, uint8 RGB. ImageNet at 256 takes about 340 GB, and reading it is hardly more than resizing.
        "jpeg": JPEGs in tiles (see `data.tiles`), 1 % larger than ImageNet's own files.
      shorter_side: in pixels; None is 256 for "raw", and the size that they have for "jpeg". The paper draws scales up
        to 480: what is kept smaller than that is enlarged for them.
      quality: of "jpeg", for photographs that are resized or turned, or were no JPEG. Others keep their quantisation;
        ImageNet's then change by 0.06 grey levels on average (measured).
      say: is given a line about the space needed, about files of a folder that are passed over, and about each damaged
        photograph.
      progress: shows how far each split is.

    Raises:
      InputError: the arguments cannot be, the source is not there, the folder holds something else, or the disk has not
        enough space.
    """
    if form not in FORMS:
        raise InputError(f"--form is {form!r}, but it must be one of {', '.join(FORMS)}")
    if shorter_side is not None and shorter_side < 1:
        raise InputError(f"--shorter_side is {shorter_side}, but it must be at least 1")
    if not 1 <= quality <= 100:
        raise InputError(f"--quality is {quality}, but it must be from 1 to 100")
    shorter_side = shorter_side or (256 if form == "raw" else None)
    folder = expanded(folder, "--output")
    source = open_photographs(name, data_dir, say)
    settings = {"dataset": name, "source_crc": source.crc, "form": form, "shorter_side": shorter_side}
    if isinstance(source.train, FolderPhotographs) and source.train.upright:
        settings["orientation"] = "upright"
    options = {"dataset": name, "data_dir": data_dir, "output": folder, "form": form, "shorter_side": shorter_side}
    if form == "jpeg":
        settings["quality"] = options["quality"] = quality
    given = (f"--{option}={shlex.quote(str(value))}" for option, value in options.items() if value is not None)
    card = {"complete": False, "settings": settings, "command": " ".join(["resnet-jax prepare cache", *given])}
    if _claim(folder, card):
        say(f"the cache in {folder} is complete")
        return
    encode = partial(_encode, form=form, shorter_side=shorter_side, quality=quality)
    _check_space(folder, source, encode, say)
    for split in SPLITS:
        _write_split(folder, split, getattr(source, split), encode, say, progress)
    _finish(folder, source, card, say)


def _claim(folder: Path, card: dict[str, Any]) -> bool:
    """Makes the folder belong to a cache, or checks that it does; whether that is complete already."""
    path = folder / "cache.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder} holds something else than a cache: --output must be a new or an empty folder")
        write_whole(folder / "cache.json", json.dumps(card, indent=2))
        return False
    try:
        present = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged: remove {folder} and write the cache anew") from error
    theirs, ours = present["settings"], card["settings"]
    differing = [
        f"{field} ({theirs.get(field)!r} there, {ours.get(field)!r} asked for)"
        for field in sorted(theirs | ours)
        if theirs.get(field) != ours.get(field)
    ]
    if differing:
        raise InputError(f"{folder} holds another cache, which differs in {', '.join(differing)}: use another --output")
    return present["complete"]


def _encode(data: ImageData, form: str, shorter_side: int | None, quality: int) -> np.ndarray | TiledJpeg:
    """What the cache keeps of a photograph.

    Raises:
      UnreadableImageError: see `decode`; or a JPEG cannot be so long.
    """
    image = decode(data)
    height, width, _ = image.shape
    original = None if isinstance(data, np.ndarray) else data.data if isinstance(data, TiledJpeg) else data
    if shorter_side is not None and min(height, width) > shorter_side:
        image = resample(image, Box(0, 0, width, height), resized_size(height, width, shorter_side), "bicubic")
        original = None
    if isinstance(original, UprightFile) and orientation(original) != 1:
        original = None  # its quantisation is of the image as it lay
    if form == "raw":
        return image
    if max(image.shape) > _LONGEST_JPEG:
        raise UnreadableImageError(f"{width} x {height} pixels do not fit into a JPEG")
    return encode_tiles(image, quality, original)


def _bytes(kept: np.ndarray | TiledJpeg) -> bytes:
    return kept.tiles.tobytes() + kept.data if isinstance(kept, TiledJpeg) else kept.tobytes()


def _check_space(
    folder: Path,
    source: PhotographDataset,
    encode: Callable[[ImageData], np.ndarray | TiledJpeg],
    say: Callable[[str], None],
) -> None:
    """Says how much space the photographs need that are not written yet, and refuses when there is less."""

    def size(index: int) -> int:
        try:
            return len(_bytes(encode(source.train[index].data)))
        except UnreadableImageError:
            return 0

    missing = sum(
        len(rows)
        for split in SPLITS
        for shard, rows in enumerate(_shards(getattr(source, split)))
        if not _rows_file(folder, split, shard).exists()
    )
    chosen = np.linspace(0, len(source.train) - 1, min(_SAMPLE, len(source.train)), dtype=np.int64)
    needed = missing * float(np.mean(list(in_threads(size, chosen.tolist()))))
    free = shutil.disk_usage(folder).free
    about = f"{missing} photographs take about {_gigabytes(needed)} in {folder}, where {_gigabytes(free)} are free"
    if needed > free:
        raise InputError(f"{about}: use another --output, a smaller --shorter_side or --form=jpeg")
    say(about)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 10e9 else f"{size / 1e9:,.0f} GB"


def _shards(photographs: Photographs) -> list[range]:
    """The indices of each file's photographs."""
    return [range(len(photographs))[begin : begin + _SHARD] for begin in range(0, len(photographs), _SHARD)]


def _rows_file(folder: Path, split: str, shard: int) -> Path:
    return (folder / cache_file(split, shard)).with_suffix(".npy")


def _write_split(
    folder: Path,
    split: str,
    photographs: Photographs,
    encode: Callable[[ImageData], np.ndarray | TiledJpeg],
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    shards = _shards(photographs)
    missing = [shard for shard in range(len(shards)) if not _rows_file(folder, split, shard).exists()]
    indices = [index for shard in missing for index in shards[shard]]

    def read(index: int) -> tuple[str, int, np.ndarray | TiledJpeg | None]:
        photograph = photographs[index]
        try:
            return photograph.name, photograph.label, encode(photograph.data)
        except UnreadableImageError as error:
            say(f"{photograph.name} is damaged ({error}): it is left out")
            return photograph.name, photograph.label, None

    read_ahead = iter(progress(in_threads(read, indices), len(indices), split))
    for shard in missing:
        rows = []
        with whole_file(folder / cache_file(split, shard)) as file:
            for name, label, kept in itertools.islice(read_ahead, len(shards[shard])):
                row = (-1, 0, 0, 0, 0, 0)
                if kept is not None:
                    tiled = isinstance(kept, TiledJpeg)
                    data = _bytes(kept)
                    row = (shard, file.tell(), len(data), *((len(kept.tiles), 0, 0) if tiled else (0, *kept.shape[:2])))
                    file.write(data)
                rows.append((*row, label, os.fsencode(name)))
        longest = max(len(row[-1]) for row in rows)
        with whole_file(_rows_file(folder, split, shard)) as file:
            np.save(file, np.array(rows, [*CACHE_ROW, ("name", f"S{longest}")]))


def _finish(folder: Path, source: PhotographDataset, card: dict[str, Any], say: Callable[[str], None]) -> None:
    """Joins the rows of all files, and marks the cache as complete."""
    files, counts, damaged = {}, {}, []
    for split in SPLITS:
        shards = range(len(_shards(getattr(source, split))))
        table = np.concatenate([np.load(_rows_file(folder, split, shard)) for shard in shards])
        whole = table["shard"] >= 0
        damaged += [os.fsdecode(name) for name in table["name"][~whole]]
        counts[split] = int(whole.sum())
        if not counts[split]:
            raise InputError(f"all of {len(table)} photographs of the {split} split are damaged")
        with whole_file(folder / f"{split}.npy") as file:
            np.save(file, table[whole])
        for name in (f"{split}.npy", *(cache_file(split, shard) for shard in shards)):
            files[name] = (folder / name).stat().st_size
    card = {
        **card,
        "complete": True,
        "photographs": counts,
        "bytes": sum(files.values()),
        "damaged_count": len(damaged),
        "damaged": damaged,
        "files": files,
        "class_names": source.class_names,
    }
    write_whole(folder / "cache.json", json.dumps(card, indent=2))
    left_out = f"; {len(damaged)} damaged ones are left out" if damaged else ""
    say(f"{sum(counts.values())} photographs in {folder}, {_gigabytes(card['bytes'])}{left_out}")


def warn_of_enlarging(kept: int | None, wanted: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Says so, in one line, where a cache keeps photographs smaller than they are going to be shown.

    Args:
      kept: see `PhotographDataset.shorter_side`.
      wanted: the shorter sides in pixels that whole photographs are to have, by what wants them.
      say: is given the line.
    """
    larger = {what: side for what, side in wanted.items() if kept is not None and side > kept}
    if larger:
        listing = " and ".join(f"{what} up to {side:.0f}" for what, side in larger.items())
        say(
            f"the cache keeps at most {kept} pixels of a photograph's shorter side, but {listing} are wanted, and will "
            f"be blurred (prepare cache --shorter_side={max(larger.values()):.0f} keeps as many)"
        )
