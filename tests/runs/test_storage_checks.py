"""How fast and how reliable storage is, as `resnet-jax doctor` measures it, with disks and clocks that are made up."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from findings import grades, said
from resnet_jax.data.encoded import EncodedImage
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.tiles import TiledJpeg
from resnet_jax.errors import InputError
from resnet_jax.files import sizes, write_whole
from resnet_jax.runs import doctor, storage_checks
from small_run import OF_20, small_config

# Whatever this machine's disk is.
pytestmark = pytest.mark.usefixtures("roomy_disk")


class Clock:
    """Stands for `perf_counter`: writing takes 0.1 s and so many seconds for each byte, all else next to nothing."""

    def __init__(self, monkeypatch, per_byte=0.0):
        self.now, self.per_byte, self.sizes = 0.0, per_byte, []
        monkeypatch.setattr(storage_checks, "perf_counter", self.tell)
        monkeypatch.setattr(storage_checks, "write_whole", self.write)

    def tell(self):
        self.now += 1e-6
        return self.now

    def write(self, path, data):
        self.now += 0.1 + len(data) * self.per_byte
        self.sizes.append(len(data))
        write_whole(path, data)


@pytest.mark.parametrize(
    ("per_byte", "largest", "says"),
    [(1e-8, 2**25, "32 MiB"), (1e-6, 2**22, "4 MiB"), (1e-5, 2**19, "0.5 MiB")],
    ids=["a disk", "a slow one", "a very slow one"],
)
def test_a_slow_disk_is_given_less_to_write(per_byte, largest, says, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_checks, "_LARGEST", 2**25)
    clock = Clock(monkeypatch, per_byte)
    found, advice = storage_checks.examine(tmp_path)
    assert max(clock.sizes) == largest
    assert clock.now < 13
    assert f"a small file is written and read in 100 ms, {says} are written at " in found
    assert advice == ""


def test_a_checkpoint_that_takes_long_to_save_is_worth_a_word(tmp_path, monkeypatch):
    Clock(monkeypatch, per_byte=1e-6)  # 0.5 MiB in 0.624 s
    found, advice = storage_checks.examine(tmp_path, 50_000_000)
    assert found.endswith("; a checkpoint of 50 MB takes at least 59.5 s")
    assert advice == ""
    found, advice = storage_checks.examine(tmp_path, 51_000_000)
    assert "takes at least 60.7 s" in found
    assert advice == "use a faster workdir, or save seldom: config.train.checkpoint_every"


def test_small_files_that_take_long_are_worth_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_checks, "SLOW_FILE", 0.09)
    Clock(monkeypatch)
    assert storage_checks.examine(tmp_path)[1].startswith("use a faster workdir")


def test_a_full_disk_is_written_little(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_checks, "_LARGEST", 2**25)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**24))
    clock = Clock(monkeypatch)
    (finding,) = [each for each in doctor.examine(tmp_path)["findings"] if each["check"] == "workdir"]
    assert finding["grade"] == "attention"
    assert finding["advice"] == "free some space: checkpoints need a few GiB"
    assert max(clock.sizes) == 2**22


def no_locks(file, how):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("flock", [lambda file, how: None, no_locks], ids=["none is kept", "there are none"])
def test_a_lock_that_excludes_nobody_is_found(flock, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", flock)
    result = doctor.examine(tmp_path)
    (finding,) = [each for each in result["findings"] if each["check"] == "workdir"]
    assert finding["grade"] == "attention"
    assert "a lock excludes nobody there" in finding["says"]
    assert finding["advice"] == "see to it that no other run writes there"
    assert capsys.readouterr().err == ""


def in_place(source, target):
    Path(target).write_bytes(Path(source).read_bytes())
    os.unlink(source)


def not_at_all(source, target):
    in_place(source, target) if not Path(target).exists() else os.unlink(source)


def test_files_that_are_not_replaced_whole_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", in_place)
    found, advice = storage_checks.examine(tmp_path)
    assert found.startswith("a file that is replaced there is not whole all the time; a small file is ")
    assert advice == "use another file system, or read nothing of a run while it trains"
    monkeypatch.setattr(os, "replace", not_at_all)
    with pytest.raises(InputError, match=f"^{tmp_path} gives back something else than was just written: "):
        storage_checks.examine(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [InputError("the disk is gone"), OSError(errno.EIO, "Input/output error")])
def test_what_was_written_before_an_error_is_removed(error, tmp_path, monkeypatch):
    written = []

    def write(path, data):
        written.append(path)
        write_whole(path, data)
        if len(written) == 5:
            assert list(tmp_path.iterdir()) != []
            raise error

    monkeypatch.setattr(storage_checks, "write_whole", write)
    result = doctor.examine(tmp_path)
    assert grades(result)["workdir"] == "impossible"
    assert (error.strerror if isinstance(error, OSError) else str(error)) in said(result, "workdir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_size_of_a_checkpoint_is_that_of_one_on_a_disk(run_of_20):
    on_disk = sum(sizes(run_of_20 / "checkpoints" / "20").values())
    counted = storage_checks.checkpoint_bytes(small_config(OF_20), 10, (8, 8, 1))
    assert counted == pytest.approx(on_disk, rel=0.1)
    averaged = storage_checks.checkpoint_bytes(small_config(OF_20 | {"train.ema_decay": 0.9}), 10, (8, 8, 1))
    assert averaged == pytest.approx(1.5 * counted, rel=0.01)


def test_images_are_read_and_not_decoded(monkeypatch):
    now, read = [0.0], []
    jpeg, pixels = b"\xff" * 1000, np.zeros((10, 300, 3), np.uint8)
    kinds = [jpeg, UprightFile(jpeg), TiledJpeg(jpeg, np.zeros(4, np.int32)), pixels]

    class Source:
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            read.append(index)
            now[0] += 0.01
            return EncodedImage(kinds[len(read) % 4], 0, "name")

    monkeypatch.setattr(storage_checks, "perf_counter", lambda: now[0])
    # 8 times 12,000 bytes in 0.32 s.
    assert storage_checks.examine_images(Source()) == ("32 of them are read in 10 ms each, 0.3 MB/s", "")
    first = [*read]
    storage_checks.examine_images(Source())
    assert read[32:] == first
    assert len(set(first)) == 32
    assert max(first) > 500
    monkeypatch.setattr(storage_checks, "SLOW_FILE", 0.009)
    assert storage_checks.examine_images(Source())[1] == "copy them to a disk of every host"
