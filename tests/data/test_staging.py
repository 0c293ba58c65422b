"""Copies of folders against their originals, read by other means; and what becomes of one that was interrupted."""

import contextlib
import errno
import itertools
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import resnet_jax as rj
from resnet_jax.cli.main import main
from resnet_jax.data import staging
from resnet_jax.errors import InputError, is_passing
from resnet_jax.files import locked
from trees import tree

NAMES = ("train/a/1.png", "train/a/zwei & drei.png", "train/b/é.png", "val/a/5.bin", "val/empty", ".hidden")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Files of 0 to 5,000 bytes, of which a part has 1,000."""
    monkeypatch.setattr(staging, "_PART", 1000)
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "val/empty" else rng.bytes(1000 * (i + 1)))
        os.utime(path, (1e9 + i, 1e9 + i))
    return tmp_path / "source"


def inodes(folder):
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def ignore(line):
    pass


def refusal(source, destination):
    with pytest.raises(InputError) as caught:
        rj.data.stage(source, destination, log=ignore)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stage_until(count, source, destination, monkeypatch):
    """Ends a copy when so many files are whole, and in the middle of the next one."""
    begun, whole_file = [], staging.whole_file

    @contextlib.contextmanager
    def fragile(path):
        begun.append(path)
        if len(begun) > count:
            path.with_name(f".{path.name}.partial").write_bytes(b"half")
            raise RuntimeError("killed")
        with whole_file(path) as file:
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_THREADS", 1)
        patch.setattr(staging, "whole_file", fragile)
        with pytest.raises(RuntimeError, match="killed"):
            staging.stage(source, destination, log=ignore)
    return [str(path).partition(".partial/")[2] for path in begun[:count]]


def test_a_copy_is_the_original(source, tmp_path, monkeypatch):
    said, shown = [], []

    def progress(iterable, total, label):
        items = list(iterable)
        shown.append((len(items), total, label))
        return items

    monkeypatch.setattr(staging, "_MB", 300)
    to = tmp_path / "disks" / "copy"
    assert rj.data.stage(str(source), str(to), log=said.append, progress=progress) == to
    assert tree(to) == tree(source)
    assert {name: (to / name).stat().st_mtime for name in NAMES} == {name: 1e9 + i for i, name in enumerate(NAMES)}
    assert os.listdir(to.parent) == ["copy"]
    assert shown == [(53, 53, "MB")]
    assert "6 files take 0.000 GB in" in said[0]
    assert said[1].startswith(f"6 files in {to}")


def test_a_complete_copy_is_left_alone(source, tmp_path):
    said, to = [], tmp_path / "copy"
    rj.data.stage(source, to, log=ignore)
    before = inodes(to)
    rj.data.stage(source, to, log=said.append)
    assert said == [f"{to} holds all 6 files of {source} already: nothing is copied"]
    assert inodes(to) == before


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_killed_copy_goes_on(source, tmp_path, monkeypatch, count):
    to, partial = tmp_path / "copy", tmp_path / ".copy.partial"
    whole = stage_until(count, source, to, monkeypatch)
    assert len(whole) == count
    assert not to.exists()
    before = inodes(partial)
    assert {name for name in before if name in NAMES} == set(whole)
    assert len([name for name in before if name.endswith(".partial")]) == 1
    said = []
    rj.data.stage(source, to, log=said.append)
    assert tree(to) == tree(source)
    assert {name: inodes(to)[name] for name in whole} == {name: before[name] for name in whole}
    assert not partial.exists()
    assert (f"{count} of 6 files are copied already" in said) == (count > 0)


def test_what_is_damaged_or_of_another_time_is_copied_again(source, tmp_path, monkeypatch):
    to, partial = tmp_path / "copy", tmp_path / ".copy.partial"
    whole = stage_until(5, source, to, monkeypatch)
    kept = (partial / whole[2]).with_name(f".{os.path.basename(whole[2])}.partial")
    kept.write_text("half")
    os.truncate(partial / whole[0], 10)
    os.utime(partial / whole[0], (1e9, (source / whole[0]).stat().st_mtime))
    (source / whole[1]).write_bytes(bytes(len((source / whole[1]).read_bytes())))
    before = inodes(partial)
    rj.data.stage(source, to, log=ignore)
    assert tree(to) == tree(source)
    same = {name for name in whole if inodes(to)[name] == before[name]}
    assert same == set(whole[2:])


def test_an_interruption_ends_it_at_once(source, tmp_path, monkeypatch):
    def progress(iterable, total, label):
        next(iter(iterable))
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "_MB", 1)
    with pytest.raises(KeyboardInterrupt):
        rj.data.stage(source, tmp_path / "copy", log=ignore, progress=progress)
    assert not (tmp_path / "copy").exists()
    rj.data.stage(source, tmp_path / "copy", log=ignore)
    assert tree(tmp_path / "copy") == tree(source)


def test_after_an_interruption_no_file_is_copied_to_its_end(source, tmp_path, monkeypatch):
    def progress(iterable, total, label):
        next(iter(iterable))
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "_MB", 1)
    monkeypatch.setattr(staging, "_reader", lambda origin: lambda name, size: itertools.repeat(b"x"))
    with pytest.raises(KeyboardInterrupt):
        rj.data.stage(source, tmp_path / "copy", log=ignore, progress=progress)
    assert not [thread for thread in threading.enumerate() if thread.name == "staging"]
    assert set(tree(tmp_path)) == {".copy.partial/.staging.lock", *(f"source/{name}" for name in NAMES)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda to: to.rmdir() or to.write_text("x"), "copy is a file: give a new or an empty folder"),
        (lambda to: (to / "mine").write_text("x"), "6 missing (.hidden), 1 that are none of its (mine)"),
        (lambda to: (to / "train").mkdir(), "6 missing (.hidden): give a new or an empty folder, or mend"),
        (lambda to: (to / ".hidden").write_text("x"), "5 missing (train/a/1.png), 1 of another size (.hidden)"),
    ],
)
def test_something_else_is_refused_and_nothing_lost(source, tmp_path, change, message):
    to = tmp_path / "copy"
    to.mkdir()
    change(to)
    before = tree(tmp_path)
    assert message in refusal(source, to)
    assert tree(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["copy", "source"]


def test_a_damaged_copy_is_mended_as_its_refusal_says(source, tmp_path, monkeypatch):
    to = tmp_path / "copy"
    rj.data.stage(source, to, log=ignore)
    os.truncate(to / "train/b/é.png", 10)
    before = inodes(to)
    line = refusal(source, to)
    assert "1 of another size (train/b/é.png): give a new or an empty folder, or mend it by mv" in line
    os.rename(to, tmp_path / ".copy.partial")
    assert line.split("mv ")[1].split(" and ")[0] == f"{to} {tmp_path / '.copy.partial'}"
    rj.data.stage(source, to, log=ignore)
    assert tree(to) == tree(source)
    assert {name for name in NAMES if inodes(to)[name] != before[name]} == {"train/b/é.png"}


def test_a_folder_in_its_source_is_refused(source):
    for to in (source, source / "new", source / "train" / "new"):
        assert "which is to be copied: give a folder outside of it" in refusal(source, to)
    assert sorted(tree(source)) == sorted(NAMES)


def test_an_unfinished_copy_of_another_folder_is_refused(source, tmp_path):
    mine = tmp_path / ".copy.partial" / "train" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    assert "holds train/mine.png, which" in refusal(source, tmp_path / "copy")
    assert mine.read_text() == "x"


def test_an_empty_folder_is_filled_through_a_link_too(source, tmp_path):
    (tmp_path / "real" / "copy").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "copy")
    assert rj.data.stage(source, tmp_path / "link", log=ignore) == tmp_path / "real" / "copy"
    assert tree(tmp_path / "link") == tree(source)
    assert (tmp_path / "link").is_symlink()


def test_an_unfinished_copy_is_no_source(source, tmp_path, monkeypatch):
    stage_until(3, source, tmp_path / "copy", monkeypatch)
    assert "is a copy that is not complete" in refusal(tmp_path / ".copy.partial", tmp_path / "other")


def test_two_at_once_are_refused(source, tmp_path):
    (tmp_path / ".copy.partial").mkdir()
    with locked(tmp_path / ".copy.partial" / ".staging.lock", ""):
        assert "another process is copying to" in refusal(source, tmp_path / "copy")


def test_sources_that_are_none(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "below").mkdir(parents=True)
    for name, message in (("absent", "does not exist"), ("file", "is a file"), ("empty", "holds no files")):
        assert message in refusal(tmp_path / name, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]


def test_links_are_followed_and_what_is_no_file_is_named(source, tmp_path):
    (source / "train" / "linked").symlink_to(source / "train" / "a")
    (source / "train" / "a" / "link.png").symlink_to(source / "train" / "a" / "1.png")
    (source / "train" / "a" / "circle").symlink_to(source)
    said = []
    (source / "nowhere").symlink_to(tmp_path / "absent")
    os.mkfifo(source / "pipe")
    rj.data.stage(source, tmp_path / "copy", log=said.append)
    found = tree(tmp_path / "copy")
    assert set(found) == {
        *NAMES,
        *("train/a/link.png", "train/linked/1.png", "train/linked/link.png", "train/linked/zwei & drei.png"),
    }
    assert found["train/linked/link.png"] == (source / "train/a/1.png").read_bytes()
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert said[0].startswith("4 that are no files are passed over")


def test_too_little_space_is_told_beforehand(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10_000))
    line = refusal(source, tmp_path / "copy")
    assert "6 files take 0.000 GB in" in line
    assert "0.000 GB are free: free some space" in line
    assert tree(tmp_path / ".copy.partial") == {".staging.lock": b""}


def test_a_disk_that_becomes_full(source, tmp_path, monkeypatch, capsys):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert "cannot be written: No space left on device" in refusal(source, tmp_path / "copy")
        assert main(["prepare", "stage", str(source), f"--to={tmp_path / 'copy'}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: the disk is full: free some space and run the same command again"
    )
    assert tree(tmp_path / ".copy.partial") == {".staging.lock": b""}
    rj.data.stage(source, tmp_path / "copy", log=ignore)
    assert tree(tmp_path / "copy") == tree(source)


def test_places_that_cannot_be_written(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert ".copy.partial cannot be written: Not a directory" in refusal(source, tmp_path / "file" / "copy")
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    assert f"so that it gets no other name: give {tmp_path / 'copy' / 'data'}" in refusal(source, tmp_path / "copy")


def test_an_original_that_changes_meanwhile_is_worth_another_start(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(staging, "_reader", lambda origin: lambda name, size: iter([b"short"]))
    with pytest.raises(InputError, match=r"bytes and gave 5: it came damaged") as caught:
        rj.data.stage(source, tmp_path / "copy", log=ignore)
    assert is_passing(caught.value.__cause__)
    assert main(["prepare", "stage", str(source), f"--to={tmp_path / 'copy'}"]) == 76
    assert "run the same command again to go on" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_an_original_that_is_removed_meanwhile_is_named(source, tmp_path, monkeypatch):
    reader = staging._reader

    def removing(origin):
        (source / "val/a/5.bin").unlink()
        return reader(origin)

    monkeypatch.setattr(staging, "_reader", removing)
    assert refusal(source, tmp_path / "copy") == f"{source / 'val/a/5.bin'} cannot be read: it is gone"


def test_the_command_copies_what_is_then_read(tmp_path, capsys):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 9, 3), np.uint8)
    for split in ("train", "val"):
        for i, label in enumerate("ab"):
            path = tmp_path / "photos" / split / label / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels[i]).save(path)
    line = ["prepare", "stage", str(tmp_path / "photos"), f"--to={tmp_path / 'copy'}"]
    assert main(line) == 0
    shutil.rmtree(tmp_path / "photos" / "val")
    photos = rj.data.image_folder(tmp_path / "copy", image_size=8, resize_size=8)
    assert photos.class_names == ("a", "b")
    assert len(photos.validation) == 2
    assert "4 files in" in capsys.readouterr().err
    assert main(line) == 2
    assert "2 that are none of its (val/a/1.png)" in capsys.readouterr().err


def test_what_another_process_has_completed_meanwhile_is_taken(source, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def late(path, refusal):
        shutil.copytree(source, tmp_path / "copy")
        with locked(path, refusal):
            yield

    monkeypatch.setattr(staging, "locked", late)
    assert rj.data.stage(source, tmp_path / "copy", log=ignore) == tmp_path / "copy"
    assert tree(tmp_path / "copy") == tree(source)
    assert not (tmp_path / ".copy.partial").exists()


def test_a_process_that_is_killed_as_soon_as_all_is_there_leaves_a_complete_copy(source, tmp_path):
    rj.data.stage(source, tmp_path / "copy", log=ignore)
    (tmp_path / "copy" / ".staging.lock").touch()
    said = []
    rj.data.stage(source, tmp_path / "copy", log=said.append)
    assert said[-1].endswith("nothing is copied")


def test_a_folder_stays_as_private_as_it_is(source, tmp_path):
    (tmp_path / "copy").mkdir(mode=0o700)
    rj.data.stage(source, tmp_path / "copy", log=ignore)
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700


def test_the_root_is_no_destination_and_a_link_to_itself_no_file(source, tmp_path):
    assert "the destination is /: give a folder below it" in refusal(source, "/")
    (source / "loop").symlink_to("loop")
    said = []
    rj.data.stage(source, tmp_path / "copy", log=said.append)
    assert any("are passed over" in line and "loop" in line for line in said)
    assert not (tmp_path / "copy" / "loop").exists()
