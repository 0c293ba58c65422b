"""What batches hold, whoever decodes them, and what becomes of damaged photographs.

The photographs are as large as their windows are cut from, and each pixel holds (photograph, column, row), so that a
window tells where it comes from.
"""

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numbered import COUNT, DAMAGED, HEIGHT, WIDTH, Listed, coordinates, spoiled, whole
from PIL import Image

from resnet_jax.data import stream
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping, DamageReport
from resnet_jax.errors import InputError, PeerLostError

SIDE = 32
CROPPING = Cropping("random_scale", (HEIGHT, HEIGHT), SIDE)


def batches(photographs, steps, cropping=CROPPING, *, seed=0, batch_size=8, start=0, num_workers=0, host=(0, 1)):
    """Some batches as one: arrays whose first axis are the steps."""
    stream_ = stream.TrainBatches(
        photographs, cropping, seed=seed, batch_size=batch_size, start=start, num_workers=num_workers, host=host
    )
    with contextlib.closing(stream_):
        return stream.HostBatch(*map(np.stack, zip(*(next(stream_) for _ in range(steps)), strict=True)))


def shown(found):
    """(photograph, column, row) of each window, in order."""
    corners = found.images[:, :, 0, 0].reshape(-1, 3).astype(int)
    for image, (index, left, top) in zip(found.images.reshape(-1, SIDE, SIDE, 3), corners, strict=True):
        np.testing.assert_array_equal(image, coordinates(index)[top : top + SIDE, left : left + SIDE])
    return corners


def assert_equal(one, other):
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """Grain's iterators end here: their destructors fail while TFDS is being imported, which is done lazily."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def long():
    """60 epochs in batches of 8, which straddle epochs."""
    return batches(whole(), 60 * COUNT // 8)


def test_types_and_shapes(long):
    assert long.images.shape == (150, 8, SIDE, SIDE, 3)
    assert long.labels.shape == long.damaged.shape == (150, 8)
    assert (long.images.dtype, long.labels.dtype, long.damaged.dtype) == (np.uint8, np.int32, np.int64)
    assert np.array_equal(long.labels.ravel(), 10 * shown(long)[:, 0])
    assert (long.damaged == -1).all()


def test_every_epoch_shows_each_photograph_once_in_an_order_of_its_own(long):
    orders = shown(long)[:, 0].reshape(60, COUNT)
    assert (np.sort(orders, 1) == np.arange(COUNT)).all()
    assert len({order.tobytes() for order in orders}) == 60
    # Two random orders agree in one place on average, and in ten or more once in 10^7.
    agreements = (orders[:, None] == orders[None]).sum(-1)
    np.fill_diagonal(agreements, 0)
    assert agreements.max() < 10
    assert abs(agreements.sum() / (60 * 59) - 1) < 0.1


def test_windows_differ_between_epochs_and_are_spread_evenly(long):
    corners = shown(long)
    rows = HEIGHT - SIDE + 1, WIDTH - SIDE + 1
    places = corners[:, 2] * rows[1] + corners[:, 1]
    counts = np.bincount(places, minlength=15)
    # Chi-squared with 14 degrees of freedom exceeds 36 once in 1,000.
    assert ((counts - len(places) / 15) ** 2).sum() / (len(places) / 15) < 36
    # Of one photograph in the next epoch: one in 15 is the same again.
    by_epoch = np.empty((60, COUNT), int)
    by_epoch[np.repeat(np.arange(60), COUNT), corners[:, 0]] = places
    assert abs((by_epoch[1:] == by_epoch[:-1]).mean() - 1 / 15) < 0.03
    assert all(len(set(column)) > 8 for column in by_epoch.T)


def test_a_batch_may_be_larger_than_the_data_set():
    found = batches(whole(3), 2, batch_size=15)
    assert (np.sort(shown(found)[:, 0].reshape(10, 3), 1) == np.arange(3)).all()


@pytest.mark.parametrize("start", [1, 2, 5, 7])
def test_from_any_step_on(long, start):
    assert_equal(batches(whole(), 4, start=start), [each[start : start + 4] for each in long])


@pytest.mark.parametrize("start", [10**6])
def test_far_into_a_run(start):
    found = batches(whole(), 5, start=start)
    assert (np.sort(shown(found)[:, 0].reshape(2, COUNT), 1) == np.arange(COUNT)).all()


def test_other_seeds_other_batches(long):
    again, other, largest = (batches(whole(), 5, seed=seed) for seed in (0, 1, 2**32 - 1))
    assert_equal(again, [each[:5] for each in long])
    for one, two in ((again, other), (again, largest), (other, largest)):
        assert (one.labels == two.labels).mean() < 0.3


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_one(hosts):
    for start in (0, 3):
        one = batches(whole(), 6, start=start)
        parts = [batches(whole(), 6, start=start, host=(host, hosts)) for host in range(hosts)]
        assert all(part.labels.shape == (6, 8 // hosts) for part in parts)
        # Row by row: draws and statistic groups go by the row.
        assert_equal(stream.HostBatch(*(np.concatenate(each, 1) for each in zip(*parts, strict=True))), one)


@pytest.fixture
def folder(tmp_path):
    """Photographs on the disk, the last three of them damaged."""
    for split in ("train", "val"):
        for index in range(COUNT):
            path = tmp_path / split / f"class{index // 10}" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if index < COUNT - 3:
                Image.fromarray(coordinates(index)).save(path)
            else:
                path.write_bytes(DAMAGED)
    return open_images("folder", str(tmp_path))


@pytest.mark.slow
def test_workers_change_nothing(folder):
    assert_equal(batches(folder.train, 7, num_workers=2, start=1), batches(folder.train, 7, num_workers=0, start=1))


@pytest.mark.parametrize("crop", ["random_scale", "random_resized_crop"])
def test_windows_are_drawn_as_the_cropping_says(crop):
    """A ramp from left to right, whose rise tells how wide a part of it a window shows."""
    ramp = np.broadcast_to(np.linspace(0, 255, 200).round()[None, :, None], (100, 200, 3)).astype(np.uint8)
    cropping = Cropping(crop, (40, 160), 32)
    found = batches(Listed((ramp,)), 50, cropping)
    width = np.diff(found.images[:, :, 5, [0, -1], 0].astype(float)).ravel() / 255 * 200 * 32 / 31
    if crop == "random_scale":
        # 32 of 40 to 160 pixels of the height, which is 100.
        assert width.min() + 2 >= 20
        assert width.max() <= 80 + 2
    else:
        # At least 8 % of the area at 3:4, at most all of the height at 4:3.
        assert width.min() + 2 >= 34
        assert width.max() <= 133 + 2
    assert np.ptp(width) > 40


def test_a_damaged_photograph_is_replaced_by_the_next_whole_one():
    photographs = spoiled(3, 7, 8, COUNT - 1)
    found = batches(photographs, 10)
    asked = shown(batches(whole(), 10))[:, 0]
    stands_for = {3: 4, 7: 9, 8: 9, COUNT - 1: 0}
    expected = [stands_for.get(index, index) for index in asked]
    assert shown(found)[:, 0].tolist() == expected
    assert found.labels.ravel().tolist() == [10 * index for index in expected]
    assert found.damaged.ravel().tolist() == [index if index in stands_for else -1 for index in asked]
    assert_equal(batches(photographs, 10), found)
    assert_equal(batches(photographs, 6, start=4), [each[4:] for each in found])


def test_nineteen_damaged_ones_in_a_row_and_no_more():
    found = batches(spoiled(*range(5, 24), count=40), 10)
    assert set(found.damaged.ravel()) == {-1, *range(5, 24)}
    with pytest.raises(InputError) as error:
        batches(spoiled(*range(5, 25), count=40), 10)
    assert str(error.value) == "20 images from photograph 5 on are damaged: is the data set whole?"


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["damaged", "gone"])
def test_errors_of_workers_are_the_users(folder, tmp_path, reason):
    for path in tmp_path.glob("train/*/*.png"):
        if reason == "damaged":
            path.write_bytes(DAMAGED)
        else:
            path.unlink()
    message = {"damaged": "20 images from train/", "gone": "cannot be read: No such file or directory"}
    with pytest.raises(InputError, match=message[reason]) as error:
        batches(folder.train, 1, num_workers=1)
    assert "\n" not in str(error.value)


def report(most, count=COUNT):
    said = []
    return DamageReport(whole(count), most, said.append), said


def test_damaged_photographs_are_named_once():
    damaged, said = report(1.0)
    for indices in ([-1, -1], [3, -1, 5], [5, 3, 3], [], [-1, 11]):
        damaged(np.array(indices, np.int64))
    assert damaged.found == {3, 5, 11}
    assert said == [f"photograph {i} is damaged: the next image takes its place" for i in (3, 5, 11)]


@pytest.mark.parametrize(("most", "allowed"), [(0, 0), (0.01, 1), (0.05, 1), (0.1, 2), (0.149, 2), (1, COUNT)])
def test_too_many_damaged_photographs(most, allowed):
    damaged, said = report(most)
    damaged(np.arange(allowed))
    damaged(np.arange(allowed))
    assert len(said) == allowed
    if allowed < COUNT:
        with pytest.raises(InputError) as error:
            damaged(np.array([-1, allowed]))
        assert str(error.value) == (
            f"{allowed + 1} of {COUNT} images are damaged, photograph {allowed} the last so far, "
            f"and max_corrupt_fraction={most} allows no more: mend or remove them, or allow a larger one"
        )


READER = """
import sys
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping, TrainBatches

if __name__ == "__main__":
    images, cropping = open_images("folder", sys.argv[1]).train, Cropping("random_resized_crop", (8, 8), 8)
    batches = TrainBatches(images, cropping, seed=0, batch_size=4, start=0, num_workers=2)
    next(batches)
    print("ready", flush=True)
    sys.stdin.readline()
    next(batches)
    batches.close()
    print("closed", flush=True)
"""


def descendants(process):
    """The processes that a process started, and those that they started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[status.parent.name] = status.read_text().rpartition(")")[2].split()[1]
    found = {process}
    for _ in range(5):
        found |= {child for child, parent in parents.items() if parent in found}
    return sorted(found - {process})


@pytest.fixture
def reader(folder, tmp_path):
    """A process of its own that reads with two workers and has not parsed any flags."""
    program = tmp_path / "reader.py"
    program.write_text(READER)
    command = [sys.executable, str(program), folder.train.root]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(reader):
    workers = descendants(str(reader.pid))
    assert len(workers) >= 2
    reader.kill()
    reader.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


@pytest.mark.slow
def test_ctrl_c_is_the_main_process_s_alone(reader):
    """The terminal sends it to all of the processes."""
    for worker in descendants(str(reader.pid)):
        os.kill(int(worker), signal.SIGINT)
    output, errors = reader.communicate("\n", timeout=60)
    assert output == "closed\n"
    assert errors == ""
    assert reader.returncode == 0


@pytest.mark.slow
def test_a_worker_that_is_killed(folder):
    batches = stream.TrainBatches(folder.train, CROPPING, seed=0, batch_size=4, start=0, num_workers=1)
    next(batches)
    (worker,) = [child for child in multiprocessing.active_children() if "Tracker" not in type(child).__name__]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(PeerLostError, match=r"was killed.*: num_workers is 1"):
        list(itertools.islice(batches, 20))
    batches.close()
