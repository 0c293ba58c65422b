"""A cache of images, for machines whose cores cannot feed the accelerator: a folder of

cache.json                  what it was made from and how; "complete" is true when all of it is there
train-00000.photographs     5,000 images, one behind the other, as `_ROW` says
train-00000.npy             their rows: this file is there when the other one is complete
train.npy                   the rows of the whole split, without damaged images
validation-…                likewise
"""

import functools
import itertools
import json
import mmap
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.decode import UnreadableImageError, decode, resample
from resnet_jax.data.encoded import SPLITS, EncodedImage, ImageDataset, ImageSource
from resnet_jax.data.folders import FolderImages
from resnet_jax.data.image_files import UprightFile, orientation
from resnet_jax.data.sequential import in_threads
from resnet_jax.data.tiles import ImageData, TiledJpeg, encode_tiles
from resnet_jax.data.windows import Box, resized_size
from resnet_jax.errors import InputError, Progress, no_progress
from resnet_jax.files import expanded, whole_file, write_whole

FORMS = ("raw", "jpeg")

# Images in a file: what a kill loses at most.
_SHARD = 5_000

# Images that the size of a cache is estimated from: to about 2 %.
_SAMPLE = 300

# What libjpeg writes at most, in a row or a column.
_LONGEST_JPEG = 65_500

# An image's row: the file that holds it (-1: it is damaged), where it begins there, and how many bytes it has. Where
# `tiles` is 0 these are pixels; otherwise they are so many int32, the tiles, and then the JPEG. Its name follows.
_FIELDS = ("shard", "begin", "bytes", "tiles", "height", "width", "label")
_ROW = [(name, np.int64 if name in ("begin", "bytes") else np.int32) for name in _FIELDS]

# What is kept of an image: bytes, and (tiles, height, width) of its row.
_Kept = tuple[bytes, tuple[int, int, int]]
_Encode = Callable[[ImageData], _Kept]


def _shard_file(folder: str | Path, split: str, shard: int, suffix: str = ".photographs") -> Path:
    return Path(folder, f"{split}-{shard:05d}{suffix}")


@dataclass(frozen=True)
class CachedImages:
    """A split of a cache: its folder, "train" or "validation", how many images, and the folder's version: another cache
    that is written there has another one. Workers get these, and map the files themselves.
    """

    root: str
    split: str
    count: int
    version: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> EncodedImage:
        row = _index(self.root, self.split, self.version)[index]
        shard, begin, size, tiles, height, width, label, name = row.item()
        file = _mapped(_shard_file(self.root, self.split, shard), self.version)
        if tiles:
            starts = np.frombuffer(file, np.int32, tiles, begin)
            data = TiledJpeg(file[begin + starts.nbytes : begin + size], starts)
        else:
            data = np.frombuffer(file, np.uint8, size, begin).reshape(height, width, 3)
        return EncodedImage(data, label, os.fsdecode(name))


_PARSING = threading.Lock()


@functools.cache
def _index(root: str, split: str, _version: int) -> np.ndarray:
    # In several threads at once, CPython 3.11 fails to parse what begins a file of NumPy's (SystemError).
    with _PARSING:
        return np.load(Path(root, f"{split}.npy"), mmap_mode="r").view(np.ndarray)


@functools.cache
def _mapped(path: Path, _version: int) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def open_cache(root: Path) -> ImageDataset:
    """A cache that `write_cache` wrote; an InputError where it is none, or not complete."""
    try:
        about = json.loads((root / "cache.json").read_text())
        settings, complete = about["settings"], about["complete"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{root} is no cache of images (no readable cache.json): write one with resnet-jax prepare cache"
        ) from error
    if not complete:
        given = {"dataset": "dataset", "form": "form", "shorter_side": "resize_size", "quality": "quality"}
        options = " ".join(f"--{flag}={settings[name]}" for name, flag in given.items() if settings.get(name))
        raise InputError(
            f"the cache in {root} is not complete: go on with resnet-jax prepare cache {options} --output={root} and "
            "the --data_dir that it is made from"
        )
    for name, size in about["files"].items():
        path = root / name
        there = path.stat().st_size if path.exists() else "none"
        if there != size:
            raise InputError(f"{path} should have {size} bytes and has {there}: copy the cache once more")
    # Absolute: the files stay mapped, and another folder may come to be meant by the same words.
    where, version = str(root.absolute()), (root / "cache.json").stat().st_mtime_ns
    train, validation = (CachedImages(where, split, about["photographs"][split], version) for split in SPLITS)
    crc = zlib.crc32(json.dumps([settings, about["photographs"]], sort_keys=True).encode())
    return ImageDataset("cache", train, validation, tuple(about["class_names"]), crc, settings["shorter_side"])


def write_cache(
    source: ImageDataset,
    folder: Path,
    *,
    form: str = "raw",
    resize_size: int | None = None,
    quality: int = 95,
    log: Callable[[str], None],
    progress: Progress = no_progress,
) -> None:
    """Writes both splits of a data set as a cache, on all cores; the same call goes on where an earlier one was killed.

    An image whose shorter side is longer than `resize_size` is resized to it, antialiased and bicubic; none grows. All
    are turned as `source` has them decoded; the orientation itself is not kept. Damaged ones are left out, and named.

    Args:
      source: the data set.
      folder: of the cache: new, empty, or that of an earlier call with the same arguments.
      form: "raw": pixels, uint8 RGB. ImageNet at 256 takes about 340 GB, and reading it is hardly more than resizing.
        "jpeg": JPEGs in tiles (see `data.tiles`), 1 % larger than ImageNet's own files.
      resize_size: in pixels; None is 256 for "raw", and the size that they have for "jpeg". The paper draws scales up
        to 480: what is kept smaller than that is enlarged for them.
      quality: of "jpeg", for images that are resized or turned, or were no JPEG. Others keep their quantisation;
        ImageNet's then change by 0.06 grey levels on average (measured).
      log: is given a line about the space needed, and about each damaged image.
      progress: shows how far each split is.

    Raises:
      InputError: the arguments cannot be, the folder holds something else, or the disk has not enough space.
    """
    if form not in FORMS:
        raise InputError(f"form is {form!r}, but it must be one of {', '.join(FORMS)}")
    if resize_size is not None and resize_size < 1:
        raise InputError(f"resize_size is {resize_size}, but it must be at least 1")
    if not 1 <= quality <= 100:
        raise InputError(f"quality is {quality}, but it must be from 1 to 100")
    resize_size = resize_size or (256 if form == "raw" else None)
    folder = expanded(folder, "the folder")
    settings = {"dataset": source.name, "source_crc": source.crc, "form": form, "shorter_side": resize_size}
    if isinstance(source.train, FolderImages) and source.train.upright:
        settings["orientation"] = "upright"
    if form == "jpeg":
        settings["quality"] = quality
    if _claim(folder, settings):
        log(f"the cache in {folder} is complete")
        return
    encode = functools.partial(_encode, form=form, resize_size=resize_size, quality=quality)
    splits = {split: getattr(source, split) for split in SPLITS}
    _check_space(folder, splits, encode, log)
    for split, images in splits.items():
        _write_split(folder, split, images, encode, log, progress)
    _finish(folder, splits, {"settings": settings, "class_names": source.class_names}, log)


def _claim(folder: Path, settings: dict[str, Any]) -> bool:
    """Makes the folder belong to a cache, or checks that it does; whether that is complete already."""
    path = folder / "cache.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder} holds something else than a cache: give a new or an empty folder")
        write_whole(path, json.dumps({"complete": False, "settings": settings}, indent=2))
        return False
    try:
        present = json.loads(path.read_text())
        theirs, complete = present["settings"], present["complete"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged: remove {folder} and write the cache anew") from error
    differing = [
        f"{field} ({theirs.get(field)!r} there, {settings.get(field)!r} asked for)"
        for field in sorted(theirs | settings)
        if theirs.get(field) != settings.get(field)
    ]
    if differing:
        raise InputError(f"{folder} holds another cache, which differs in {', '.join(differing)}: use another folder")
    return complete


def _encode(data: ImageData, form: str, resize_size: int | None, quality: int) -> _Kept:
    """What the cache keeps of an image."""
    image, original = decode(data), data.data if isinstance(data, TiledJpeg) else data
    height, width, _ = image.shape
    if resize_size is not None and min(height, width) > resize_size:
        image = resample(image, Box(0, 0, width, height), resized_size(height, width, resize_size), "bicubic")
        original = None
    # Of an image that is turned the quantisation is that of the image as it lay.
    if isinstance(original, np.ndarray) or (isinstance(original, UprightFile) and orientation(original) != 1):
        original = None
    if form == "raw":
        return image.tobytes(), (0, *image.shape[:2])
    if max(image.shape) > _LONGEST_JPEG:
        raise UnreadableImageError(f"{width} x {height} pixels do not fit into a JPEG")
    file, tiles = encode_tiles(image, quality, original)
    return tiles.tobytes() + file, (len(tiles), 0, 0)


def _missing(folder: Path, split: str, images: ImageSource) -> dict[int, range]:
    """The shards of a split that are not written yet, with the indices of their images."""
    every = range(len(images))
    shards = {shard: every[first : first + _SHARD] for shard, first in enumerate(every[::_SHARD])}
    return {i: rows for i, rows in shards.items() if not _shard_file(folder, split, i, ".npy").exists()}


def _check_space(folder: Path, splits: Mapping[str, ImageSource], encode: _Encode, log: Callable[[str], None]) -> None:
    """Logs how much space the images need that are not written yet, and refuses when there is less."""
    train = splits["train"]

    def size(index: int) -> int:
        try:
            return len(encode(train[index].data)[0])
        except UnreadableImageError:
            return 0

    missing = sum(len(rows) for split in splits for rows in _missing(folder, split, splits[split]).values())
    chosen = np.linspace(0, len(train) - 1, min(_SAMPLE, len(train)), dtype=np.int64)
    needed = missing * float(np.mean(list(in_threads(size, chosen.tolist()))))
    free = shutil.disk_usage(folder).free
    about = f"{missing} images take about {needed / 1e9:,.2f} GB in {folder}, where {free / 1e9:,.2f} GB are free"
    if needed > free:
        raise InputError(f"{about}: use another folder, a smaller resize_size or form=jpeg")
    log(about)


def _write_split(
    folder: Path, split: str, images: ImageSource, encode: _Encode, log: Callable[[str], None], progress: Progress
) -> None:
    def read(index: int) -> tuple[EncodedImage, _Kept | None]:
        image = images[index]
        try:
            return image, encode(image.data)
        except UnreadableImageError as error:
            log(f"{image.name} is damaged ({error}): it is left out")
            return image, None

    missing = _missing(folder, split, images)
    indices = list(itertools.chain(*missing.values()))
    read_ahead = iter(progress(in_threads(read, indices), len(indices), split))
    for shard, wanted in missing.items():
        rows = []
        with whole_file(_shard_file(folder, split, shard)) as file:
            for image, kept in itertools.islice(read_ahead, len(wanted)):
                data, form = kept or (b"", (0, 0, 0))
                where = (shard, file.tell(), len(data)) if kept else (-1, 0, 0)
                file.write(data)
                rows.append((*where, *form, image.label, os.fsencode(image.name)))
        longest = max(len(row[-1]) for row in rows)
        with whole_file(_shard_file(folder, split, shard, ".npy")) as file:
            np.save(file, np.array(rows, [*_ROW, ("name", f"S{longest}")]))


def _finish(folder: Path, splits: Mapping[str, ImageSource], about: dict[str, Any], log: Callable[[str], None]) -> None:
    """Joins the rows of all files, and marks the cache as complete."""
    files, counts, damaged = {}, {}, []
    for split, images in splits.items():
        shards = range(-(-len(images) // _SHARD))
        table = np.concatenate([np.load(_shard_file(folder, split, shard, ".npy")) for shard in shards])
        whole = table["shard"] >= 0
        damaged += [os.fsdecode(name) for name in table["name"][~whole]]
        counts[split] = int(whole.sum())
        if not whole.any():
            raise InputError(f"all of {len(table)} images of the {split} split are damaged")
        with whole_file(folder / f"{split}.npy") as file:
            np.save(file, table[whole])
        for path in (folder / f"{split}.npy", *(_shard_file(folder, split, shard) for shard in shards)):
            files[path.name] = path.stat().st_size
    about |= {"complete": True, "photographs": counts, "bytes": sum(files.values()), "files": files}
    about |= {"damaged_count": len(damaged), "damaged": damaged}
    write_whole(folder / "cache.json", json.dumps(about, indent=2))
    log(
        f"{sum(counts.values())} images in {folder}, {about['bytes'] / 1e9:,.2f} GB; "
        f"{len(damaged)} damaged ones are left out"
    )


def warn_of_enlarging(kept: int | None, wanted: Mapping[str, float], log: Callable[[str], None]) -> None:
    """Logs a line where a cache `kept` smaller images (see `ImageDataset.resize_size`) than are `wanted`: shorter sides
    in pixels, by what wants them.
    """
    if kept is not None and max(wanted.values()) > kept:
        listing = " and ".join(f"{what} up to {size:.0f}" for what, size in wanted.items() if size > kept)
        log(
            f"the cache keeps at most {kept} pixels of an image's shorter side, but {listing} are wanted, and will be "
            f"blurred (prepare cache --resize_size={max(wanted.values()):.0f} keeps as many)"
        )
