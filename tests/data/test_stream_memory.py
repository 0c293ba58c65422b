"""What the streamed input keeps does not grow with the batches that it has given."""

import contextlib
import multiprocessing
import os
from pathlib import Path

import pytest
from pictures import encoded, noise

from resnet_jax.data import stream
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping

BATCH, SIDE = 8, 32


def kept_in_memory():
    """Bytes that this process and its workers have, swapped out or not, without files, whose pages come and go."""
    processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    lines = [line.split() for each in processes for line in Path(f"/proc/{each}/status").read_text().splitlines()]
    return sum(1024 * int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssShmem:", "VmSwap:"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone says in /proc what a process has")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_is_flat_over_2000_batches(tmp_path, num_workers):
    for split, count in (("train", 20), ("val", 1)):
        (tmp_path / split / "class").mkdir(parents=True)
        for index in range(count):
            (tmp_path / split / "class" / f"{index}.jpg").write_bytes(encoded(noise(60, 80, seed=index), "JPEG"))
    files, cropping, kept = open_images("folder", tmp_path).train, Cropping("random_resized_crop", (36, 60), SIDE), {}
    batches = stream.TrainBatches(files, cropping, seed=0, batch_size=BATCH, start=0, num_workers=num_workers)
    with contextlib.closing(batches):
        for step in range(1, 2_001):
            assert next(batches).images.shape == (BATCH, SIDE, SIDE, 3)
            if step % 100 == 0:
                kept[step] = kept_in_memory()
    # It grows by 0.05 MB with threads and by 2 with a worker (measured). The windows of these 1,800 batches are 44 MB,
    # their files 65 and what was decoded of them 150.
    assert kept[2_000] - kept[200] < 8e6, kept
