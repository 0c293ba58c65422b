"""Each packaged config over its whole length, with its own numbers; docs/rehearsals.md says what that means."""

import dataclasses
import re
import signal
from pathlib import Path

import pytest
from members import reached, trained

from rehearsals import REHEARSALS, falling, rehearse, stand_of
from resnet_jax.configs import parsing
from resnet_jax.errors import DivergedError, Preempted
from resnet_jax.runs import loop
from small_run import FIELDS, assert_same_run, lines_of, result_of, saved_steps
from stand_ins import Stand, wrong_images

# Six hundred thousand steps, which are three times as slow without optimisations.
pytestmark = pytest.mark.optimized


@pytest.mark.slow
@pytest.mark.parametrize("name", REHEARSALS)
def test_the_whole_length_of(name, tmp_path):
    rehearse(name, tmp_path / "run")


@pytest.mark.slow
def test_a_bad_step_too_many_ends_a_run_at_the_drop(tmp_path):
    """Two before a stop and two after it, on both sides of a drop."""
    stand = dataclasses.replace(stand_of("cifar10, bad steps"), bad=(31_998, 31_999, 32_000, 32_001))
    with pytest.raises(Preempted, match="iteration 32000 is saved"):
        loop.train(stand.config, tmp_path, make_task=stand.task, open_input=stand.opener([(31_950, "signal")]))
    with pytest.raises(DivergedError, match=r"at iteration 32002, after 3 others in a row .* iteration 32000 is whole"):
        loop.train(stand.config, tmp_path, make_task=stand.task, open_input=stand.opener([]))
    assert lines_of(tmp_path)[-1]["step"] == 32_000


@pytest.mark.slow
def test_a_signal_at_iteration_5_of_a_plateau_is_a_stop_and_no_error(tmp_path):
    """The command itself on real images: no epoch is over yet, so that there is no best error."""
    fields = FIELDS | {"optimizer.schedule": "plateau", "train.log_every": 1, "train.iterations": 240}
    directory = tmp_path / "run"
    with trained(tmp_path / "logs", 1, 1, directory, "digits", fields) as group:
        group.when(lambda: reached(directory) >= 5)
        group.signal(signal.SIGTERM, 0)
        assert group.statuses() == [75], group.errors()
    stopped = reached(directory)
    assert saved_steps(directory)[-1] == stopped < 89  # 1,437 images in batches of 16
    line = f"stopped: the state of iteration {stopped} is saved; run the same command again to go on"
    assert group.errors() == [[line]]
    for each in (directory, tmp_path / "whole"):
        with trained(tmp_path / "logs", 1, 1, each, "digits", fields) as group:
            assert group.statuses() == [0], group.errors()
    assert_same_run(directory, tmp_path / "whole")


EXTREMES = {
    "one iteration": ["train.iterations=1"],
    "intervals longer than the run": [
        *("train.iterations=7", "train.log_every=1000", "train.eval_every=1000", "train.checkpoint_every=1000"),
    ],
    "everything after every iteration": [
        *("train.iterations=7", "train.log_every=1", "train.eval_every=1", "train.checkpoint_every=1"),
        *("train.keep_last=1", "train.keep_every=4"),
    ],
    "a batch larger than the data set": ["train.iterations=3", "train.batch_size=2048"],
    "a batch of one image": ["train.iterations=3", "train.batch_size=1", "model.bn_group_size=none"],
}


@pytest.mark.parametrize(
    "name", [next(iter(EXTREMES)), *(pytest.param(name, marks=pytest.mark.slow) for name in list(EXTREMES)[1:])]
)
def test_the_least_and_the_most_that_a_run_can_be(name, tmp_path):
    config = parsing.load("digits", [*EXTREMES[name], "optimizer.schedule=plateau", "mesh.data=1"])
    fields = config.train
    stand = Stand(config, wrong_images(config, falling(10), fields.iterations))
    loop.train(config, tmp_path / "run", make_task=stand.task, open_input=stand.opener([]))
    steps = [line["step"] for line in lines_of(tmp_path / "run")]
    assert steps == list(range(1, 8)) if fields.log_every == 1 else [fields.iterations]
    assert saved_steps(tmp_path / "run") == ([4, 7] if fields.keep_last == 1 else [fields.iterations])
    assert result_of(tmp_path / "run")["step"] == fields.iterations
    assert "test_error" in lines_of(tmp_path / "run")[-1]


VARIANTS = {"imagenet:plain": "imagenet", "cifar10:plain": "cifar10", "cifar100:plain": "cifar100"}


@pytest.mark.parametrize("variant", [*VARIANTS, "digits:plain"])
def test_plain_variants_are_trained_as_the_others_are(variant):
    plain, residual = (parsing.load(name) for name in (variant, variant.partition(":")[0]))
    assert plain.model.family != residual.model.family
    plain.model.family = residual.model.family
    assert plain.to_json() == residual.to_json()


def test_the_table_names_what_is_rehearsed():
    """docs/rehearsals.md has a row for each, with the numbers that are tested here."""
    text = (Path(__file__).parents[2] / "docs" / "rehearsals.md").read_text()
    rows = re.findall(r"^\| `(.*?)` \|(.*)\|$", text, re.MULTILINE)
    told = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert list(told) == list(REHEARSALS)
    for name, wanted in REHEARSALS.items():
        changes = ", ".join(f"{rate:g} after {made:,}" for made, rate in wanted.changes)
        ramp = f", reached over {wanted.ramp:,} from {wanted.ramp_from or 0:g}" if wanted.ramp else ""
        first = f"{wanted.rate:g}{ramp}"
        assert told[name][:3] == [f"{wanted.iterations:,}", f"{wanted.epoch:,}", f"{first}; {changes}"], name
