import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from needs import unavailable
from resnet_jax.data import shared_memory, stream
from resnet_jax.data.images import open_images
from resnet_jax.data.shared_memory import check_room, free_bytes, ran_out
from resnet_jax.errors import InputError

# A batch of 256 windows of 224 pixels, in bytes, and what a container has.
BATCH, CONTAINER = 256 * 3 * 224**2, 64 * 2**20


@pytest.fixture
def photographs(tmp_path):
    for split in ("train", "val"):
        folder = tmp_path / "photographs" / split / "only"
        folder.mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((40, 40, 3), i, np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photographs"


@pytest.fixture
def free(monkeypatch):
    """Sets how much is free."""
    return lambda size: monkeypatch.setattr(shared_memory, "free_bytes", lambda: size)


def test_batches_without_room_are_refused_and_what_would_do_is_said(free):
    free(CONTAINER)
    with pytest.raises(InputError) as caught:
        check_room(BATCH, 8)
    said = str(caught.value)
    assert said.startswith("/dev/shm has 64 MiB free, but 8 workers keep up to 1,250 MiB of batches there")
    assert "docker run --shm-size=1250m" in said
    assert "num_workers=0" in said
    assert "num_workers=0, for which" not in said
    free(25 * 2**20)
    with pytest.raises(InputError, match=r"num_workers=5, for which there is room"):
        check_room(2**20, 8)
    check_room(2**20, 5)


def test_what_needs_no_room_has_it(free):
    for workers, size in ((0, 0), (1000, None), (1, 6 * BATCH)):
        free(size)
        check_room(BATCH, workers)
    free(6 * BATCH - 1)
    with pytest.raises(InputError):
        check_room(BATCH, 1)


def test_the_free_bytes_are_those_of_the_file_system():
    total, _, free = shutil.disk_usage("/dev/shm")
    assert 0 <= free_bytes() <= total
    assert abs(free_bytes() - free) < 0.1 * total


def test_which_death_is_want_of_room():
    said = "Worker process was terminated unexpectedly with exit code {}. Search the logs above"
    assert "found no room in /dev/shm" in ran_out(said.format(-signal.SIGBUS))
    for code in (-signal.SIGKILL, -signal.SIGSEGV, 1):
        assert ran_out(said.format(code)) is None
    assert ran_out("something else") is None


def test_training_asks_before_it_begins(photographs, monkeypatch):
    monkeypatch.setattr("os.statvfs", lambda path: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 0)))
    train = open_images("folder", str(photographs)).train
    fields = {"seed": 0, "batch_size": 4, "start": 0}
    with pytest.raises(InputError, match="/dev/shm has 0 MiB free, but 1 workers"):
        stream.TrainBatches(train, stream.Cropping("random_scale", (32, 40), 32), num_workers=1, **fields)
    stream.TrainBatches(train, stream.Cropping("random_scale", (32, 40), 32), num_workers=0, **fields)


PROGRAM = """
import time

from resnet_jax.data import stream
from resnet_jax.data.images import open_images
from resnet_jax.errors import InputError

if __name__ == "__main__":
    if CHECKED is False:
        stream.check_room = lambda *arguments: None
    cropping = stream.Cropping("random_scale", (256, 300), 224)
    train = open_images("folder", FOLDER).train
    try:
        batches = stream.TrainBatches(train, cropping, seed=0, batch_size=64, start=0, num_workers=1)
        for _ in range(10):
            next(batches)
            time.sleep(1)  # the worker reads ahead meanwhile
        batches.close()
        print("enough")
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "checked", "says"),
    [
        (20, True, "has 20 MiB free, but 1 workers keep up to 55 MiB"),
        (20, False, "found no room in /dev/shm"),
        (56, True, "enough"),
    ],
)
def test_a_small_shared_memory(size, checked, says, photographs, tmp_path):
    """In a file system of this size, which the test mounts where it may."""
    mounted = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size}m tmpfs /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        unavailable("nothing can be mounted here")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("FOLDER", repr(str(photographs))).replace("CHECKED", str(checked)))
    run = subprocess.run([*mounted, sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert says in run.stdout, run.stderr[-2000:]
