"""Steps whose loss is no number: the run stops and says where, or leaves them out."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import STREAMED, photograph_config

from resnet_jax.data import images as images_module, small, stream
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.resident import Augmentation, train_batch
from resnet_jax.data.small import Split
from resnet_jax.errors import DivergedError
from resnet_jax.runs import build
from resnet_jax.runs.loop import train
from small_run import (
    FIELDS,
    everything_saved,
    lines_of,
    result_of,
    saved_steps,
    small_config,
    train_until,
)

# Of a data set whose labels are 0 to 9: its cross-entropy is no number, as where labels begin at 1.
WRONG_LABEL = 10
BATCH = FIELDS["train.batch_size"]
# Programs of one step and of ten are rounded differently, and a high rate would make much of that.
GENTLE = {"optimizer.learning_rate": 0.01}


def raw_batches(steps):
    """The images of some steps of a small run, neither shifted nor normalised."""
    train_split = small.load("digits").train
    split = Split(jnp.asarray(train_split.images), jnp.asarray(train_split.labels))
    plain = Preprocessing(jnp.zeros(train_split.images.shape[1:]))
    make = jax.jit(lambda step: train_batch(split, plain, Augmentation(0, False), 0, step, BATCH).images)
    return [np.asarray(make(jnp.int32(step))) for step in steps]


def index_of(image):
    (found,) = np.flatnonzero((small.load("digits").train.images == image).all((1, 2, 3)))
    return int(found)


@pytest.fixture(scope="module")
def poisoned():
    """An image that iteration 34 shows first, by its place in the data set."""
    return index_of(raw_batches([33])[0][7])


@pytest.fixture
def poison(poisoned, monkeypatch):
    """Gives that image a label that no class has."""
    load = small.load

    def poisoned_load(*arguments):
        dataset = load(*arguments)
        labels = dataset.train.labels.copy()
        labels[poisoned] = WRONG_LABEL
        return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, labels=labels))

    monkeypatch.setattr(small, "load", poisoned_load)


def bad_batch(directory):
    return json.loads((directory / "bad_batch.json").read_text())


def test_a_loss_that_is_no_number_stops_the_run_with_its_images(poison, poisoned, tmp_path):
    with pytest.raises(DivergedError) as error:
        train(small_config(), tmp_path)
    found = bad_batch(tmp_path)
    assert (found["iteration"], found["loss"]) == (34, "nan")
    images = small.load("digits").train.images
    np.testing.assert_array_equal(images[found["indices"]], raw_batches([33])[0])
    assert found["indices"][7] == poisoned
    first = ", ".join(map(str, found["indices"][:5]))
    assert str(error.value).startswith(
        f"the loss is nan at iteration 34, on training images {first} … (all in {tmp_path / 'bad_batch.json'}); "
        "the checkpoint of iteration 20 is whole."
    )
    assert "\n" not in str(error.value)
    assert saved_steps(tmp_path) == [20]
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 20, 30]
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_run_goes_on_over_the_step_that_stopped_it(poison, tmp_path):
    directory, by_step = tmp_path / "run", tmp_path / "by step"
    with pytest.raises(DivergedError):
        train(small_config(GENTLE), directory)
    shutil.copytree(directory, by_step)
    train(small_config(GENTLE | {"train.max_skipped_steps": 1}), directory)
    lines = lines_of(directory)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert {line["step"]: line["train_skipped"] for line in lines if "train_skipped" in line} == {40: 1}
    assert all(np.isfinite(value) for line in lines for value in line.values())
    saved = everything_saved(directory)
    del saved["card"]
    assert int(saved["training"]["step"]) == 60
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))
    assert np.isfinite(result_of(directory)["test_loss"])

    # The mean loss is that of the other nine steps.
    train_until(40, small_config(GENTLE | {"train.max_skipped_steps": 1, "train.log_every": 1}), by_step)
    single = {line["step"]: line for line in lines_of(by_step) if line["step"] > 30}
    assert list(single) == list(range(31, 41))
    assert "train_loss" not in single[34]
    assert single.pop(34)["train_skipped"] == 1
    mean = np.mean([line["train_loss"] for line in single.values()])
    assert lines[3]["train_loss"] == pytest.approx(mean, rel=1e-3)


# The rate after 30 iterations is beyond all measure: the loss of iteration 32 is huge, and its gradient no number.
EXPLOSION = {"optimizer.boundaries": (30,), "optimizer.factor": 1e30, "train.log_every": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("max_skipped_steps", "iteration"), [(0, 33), (3, 35)])
def test_more_bad_steps_in_a_row_than_allowed_stop_the_run(tmp_path, max_skipped_steps, iteration):
    with pytest.raises(DivergedError) as error:
        train(small_config(EXPLOSION | {"train.max_skipped_steps": max_skipped_steps}), tmp_path)
    found = bad_batch(tmp_path)
    assert found["iteration"] == iteration
    images = small.load("digits").train.images
    np.testing.assert_array_equal(images[found["indices"]], raw_batches([iteration - 1])[0])
    assert re.match(rf"the loss is (nan|inf) at iteration {iteration}, ", str(error.value))
    assert ("after 3 others in a row that were skipped" in str(error.value)) == (max_skipped_steps == 3)
    assert "the checkpoint of iteration 20 is whole" in str(error.value)
    # A line is written when none of its steps was one too many.
    last = lines_of(tmp_path)[-1]
    assert last["step"] == (32 if max_skipped_steps == 0 else 34)
    assert last.get("train_skipped") == (None if max_skipped_steps == 0 else 2)
    assert saved_steps(tmp_path) == [20]


@dataclasses.dataclass(frozen=True)
class Mislabelled:
    """Photographs, one of which has a label that no class has."""

    photographs: object
    index: int

    def __len__(self):
        return len(self.photographs)

    def __getitem__(self, index):
        photograph = self.photographs[index]
        return photograph._replace(label=WRONG_LABEL) if index == self.index else photograph


@pytest.mark.slow
def test_photographs_of_a_bad_step_are_named_and_left_out(folder, tmp_path, monkeypatch):
    config = photograph_config(folder, STREAMED)
    whole = images_module.open_images("folder", str(folder))
    # Every photograph has a label of its own, so that a batch tells which ones it holds.
    labelled = dataclasses.replace(whole.train, labels=np.arange(len(whole.train)))
    batches = stream.TrainBatches(labelled, build.cropping(config), seed=0, batch_size=8, start=0, num_workers=0)
    shown = [next(batches).labels for _ in range(10)]
    batches.close()
    wrong = int(shown[9][3])
    spoiled = dataclasses.replace(whole, train=Mislabelled(whole.train, wrong))
    monkeypatch.setattr(images_module, "open_images", lambda *arguments: spoiled)

    with pytest.raises(
        DivergedError, match=r"the loss is nan at iteration 10, .*; the checkpoint of iteration 8 is whole"
    ):
        train(config, tmp_path)
    assert bad_batch(tmp_path) == {"iteration": 10, "loss": "nan", "indices": shown[9].tolist()}

    train(photograph_config(folder, STREAMED | {"train.max_skipped_steps": 1}), tmp_path)
    skipped = {line["step"]: line["train_skipped"] for line in lines_of(tmp_path) if "train_skipped" in line}
    # A second epoch of 100 photographs begins in step 13, and shows it once more.
    assert skipped.pop(12) == 1
    assert sum(skipped.values()) <= 1
    saved = everything_saved(tmp_path)
    del saved["card"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))
