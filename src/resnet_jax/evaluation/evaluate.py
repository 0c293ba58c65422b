"""Scores trained networks on a whole split."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.configs import Config
from resnet_jax.data import cache, photographs, sources
from resnet_jax.data.encoded import Photograph, Photographs
from resnet_jax.data.folders import same_name
from resnet_jax.errors import InputError, Progress, complain, no_progress
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.outcomes import Outcomes, prepare_folder, write_tables
from resnet_jax.evaluation.recalibrate import recalibrate as recalibrated
from resnet_jax.evaluation.scoring import score_images
from resnet_jax.evaluation.trained import Trained, load_trained
from resnet_jax.files import expanded


def evaluate(
    directories: Sequence[str | os.PathLike[str]],
    split: str | None = None,
    dataset: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    protocol: str = "center",
    scales: Sequence[int] | None = None,
    averaging: str = "logits",
    recalibrate: int | None = None,
    output: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = complain,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The errors and the loss of runs' newest checkpoints; several runs are an ensemble, whose probabilities are
    averaged.

    Of classes that are equally probable, the first one counts as the more probable.

    Args:
      directories: the runs' workdirs.
      split: of photographs "validation" (default) or "train"; of other data "test" (default), "train" or "validation".
      dataset, data_dir: what the data is and where it lies, if not what and where the first run's config says: ImageNet
        may also be a folder or a cache. EXIF orientations are applied or ignored as `open_photographs` says.
      batch_size: images at a time, if not the first run's; the result does not depend on it, but for rounding.
      protocol: "center", "ten_crop" or "dense", see `protocols`; images that are not photographs have one, "center",
        which shows the network the original (section 4.2).
      scales, averaging: of the protocol "dense".
      recalibrate: training batches to average each run's batch-norm statistics over first, see `recalibrate`.
      output: a folder for `result.json`, `predictions.csv`, `per_class.csv`, `confusion.csv` and, where it can be read,
        `confusion.png`.
      say: is given a line about each damaged checkpoint, about each damaged image, which is left out, about files of a
        folder that are passed over, and about a cache that keeps images smaller than they are shown.
      progress: shows how many images are scored.

    Returns:
      "workdirs", "steps", "split", "protocol", "scales", "averaging" and "recalibrated" where they apply, "images"
      (each scored exactly once), "damaged", "error", "top5_error" if there are more than five classes, and "loss", the
      mean of the negative logarithm of the averaged probability.

    Raises:
      InputError: no checkpoint, no data, no such split or protocol, members of an ensemble that do not fit together, or
        no image that is whole.
    """
    chosen = protocols.choose(protocol, scales, averaging)
    if not directories:
        raise InputError("no run was given: name the workdir of at least one")
    folder = None if output is None else expanded(output, "output")
    if folder is not None:
        prepare_folder(folder)
    workdirs = [expanded(directory, "workdir") for directory in directories]
    members = [load_trained(workdir, say) for workdir in workdirs]
    _check_members(members, workdirs)
    config = members[0].config
    data = _open(config, split, dataset or config.dataset.name, data_dir, say)
    for member, workdir in zip(members, workdirs, strict=True):
        _check_classes(member, workdir, data)
        _check_images(member, workdir, data)
    if data.image_shape is not None:
        if protocol != "center":
            raise InputError(
                f"the protocol {protocol} is for photographs, but the images of {config.dataset.name} are scored as "
                "they are: use the protocol center"
            )
        chosen = protocols.Protocol("original")
    else:
        cache.warn_of_enlarging(data.shorter_side, _shown_at(chosen, members), say)
    size: int = config.eval.batch_size if batch_size is None else batch_size
    if size < 1:
        raise InputError(f"the evaluation's batch size is {size}, but it must be at least 1")

    if recalibrate is not None:
        members = [recalibrated(member, recalibrate, dataset, data_dir) for member in members]
    found = Outcomes(len(data.images))
    for scored in progress(score_images(members, data.images, chosen, size), len(data.images), data.split):
        if scored.scores is None:
            say(f"{scored.name} is damaged and left out: {scored.damage}")
        found.note(scored)
    if not found.done.any():
        raise InputError(f"all of the {len(data.images)} images are damaged: is the data set whole?")
    result = {
        "workdirs": [str(workdir) for workdir in workdirs],
        "steps": [member.step for member in members],
        "split": data.split,
        "protocol": protocol,
    }
    if protocol == "dense":
        result |= {"scales": list(chosen.scales), "averaging": averaging}
    if recalibrate is not None:
        result["recalibrated"] = recalibrate
    result |= found.summary(len(data.class_names))
    if folder is not None:
        write_tables(folder, result, found, data.class_names, say)
    return result


@dataclass(frozen=True)
class Resident:
    """A split in memory, image by image."""

    split: sources.Split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Photograph:
        return Photograph(self.split.images[index], int(self.split.labels[index]), str(index))


def _shown_at(protocol: protocols.Protocol, members: Sequence[Trained]) -> dict[str, float]:
    """The longest of the shorter sides that photographs are resized to."""
    if protocol.name == "dense":
        return {"the greatest of the scales": max(protocol.scales)}
    sides = [member.preprocessing.shorter_side or max(member.card.image_shape[:2]) for member in members]
    return {f"the protocol {protocol.name}": max(sides)}


class _Data(NamedTuple):
    """What is scored.

    Attributes:
      image_shape: of images that are shown as they are; None of photographs.
      shorter_side: that photographs are kept at, if they are.
    """

    images: Photographs
    class_names: tuple[str, ...]
    split: str
    image_shape: tuple[int, ...] | None
    shorter_side: int | None


def _open(
    config: Config, split: str | None, name: str, data_dir: str | os.PathLike[str] | None, say: Callable[[str], None]
) -> _Data:
    fields = config.dataset
    resident = name not in photographs.NAMES
    if resident:
        data = sources.load(name, data_dir or fields.data_dir, fields.validation_images)
        splits: dict[str, Any] = {"test": data.test, "train": data.train, "validation": data.validation}
        split, kept = split or "test", None
    else:
        data = photographs.open_photographs(name, data_dir or fields.data_dir, say)
        splits = {"validation": data.validation, "train": data.train}
        split, kept = split or "validation", data.shorter_side
    images = splits.get(split)
    if images is None:
        present = ", ".join(name for name in splits if splits[name] is not None)
        raise InputError(f"there is no split {split!r} in this run's data: it has {present}")
    if not resident:
        return _Data(images, data.class_names, split, None, kept)
    return _Data(Resident(images), data.class_names, split, images.images.shape[1:], kept)


def _check_members(members: Sequence[Trained], directories: Sequence[Path]) -> None:
    """Refuses an ensemble whose members name different classes by the same number."""

    def refuse(directory: Path, what: str, theirs: object, ours: object) -> None:
        raise InputError(
            f"{directory} and {directories[0]} are no ensemble, their {what} differ: {theirs} and {ours}; "
            "average runs on the same classes"
        )

    first = members[0]
    for member, directory in zip(members, directories, strict=True):
        if len(member.card.class_names) != len(first.card.class_names):
            refuse(directory, "numbers of classes", len(member.card.class_names), len(first.card.class_names))
        if not (_placeholders(member) or _placeholders(first)):
            for number, pair in enumerate(zip(member.card.class_names, first.card.class_names, strict=True)):
                if same_name(pair[0]) != photographs.same_name(pair[1]):
                    refuse(directory, f"names of class {number}", *pair)


def _check_images(member: Trained, directory: Path, data: _Data) -> None:
    """Refuses to show a network images of another size, or with other channels, than it is for."""
    if data.image_shape not in (None, member.card.image_shape):
        theirs, ours = (" x ".join(map(str, shape)) for shape in (member.card.image_shape, data.image_shape))
        raise InputError(
            f"{directory} is for images of {theirs}, but those of the data are {ours}, and are shown as they are: "
            "give the data set that it was trained on as --dataset and --data_dir"
        )


def _check_classes(member: Trained, directory: Path, data: _Data) -> None:
    names = member.card.class_names
    if len(names) != len(data.class_names):
        raise InputError(
            f"{directory} was trained on {len(names)} classes, but the data has {len(data.class_names)}: "
            "give the data set that it was trained on as --data_dir"
        )
    if _placeholders(member):
        return
    for number, (theirs, ours) in enumerate(zip(names, data.class_names, strict=True)):
        if same_name(theirs) != photographs.same_name(ours):
            raise InputError(
                f"class {number} is {theirs!r} in {directory}, but {ours!r} in the data: "
                "give the data set that it was trained on as --data_dir"
            )


def _placeholders(trained: Trained) -> bool:
    """Whether the classes have no names but those that `interop.convert` gives them."""
    names = trained.card.class_names
    return trained.card.data_crc == 0 and names == tuple(f"class {i}" for i in range(len(names)))
