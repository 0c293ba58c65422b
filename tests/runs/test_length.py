"""How long a run is, and that a run that becomes longer is the longer run."""

import contextlib
import itertools
import json
import math
import shutil
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.configs import parsing
from resnet_jax.errors import InputError
from resnet_jax.runs import build, checks, length, workdir
from resnet_jax.runs.loop import train
from small_run import OF_20, assert_same_run, lines_of, result_of, saved_steps, small_config, train_until


@pytest.mark.parametrize("epochs", [1, 0.5, 90, 1.1, 163.84, 1e-6])
@pytest.mark.parametrize(("images", "batch_size"), [(1_000, 100), (1_281_167, 256), (50_000, 128), (3, 64)])
def test_epochs_are_rounded_up_to_iterations(epochs, images, batch_size):
    config = parsing.load("digits", {"train.epochs": epochs, "train.batch_size": batch_size})
    found = length.with_iterations(config, images)
    assert found.train.iterations == max(math.ceil(Fraction(str(epochs)) * images / batch_size), 1)
    assert config.train.iterations == 1_200
    assert length.with_iterations(parsing.load("digits"), images).train.iterations == 1_200


def test_shares_follow_the_length():
    fields = {"train.iterations": 60, "optimizer.warmup_steps": 0.1, "optimizer.boundaries": (0.5, 0.8)}
    config = parsing.load("digits", fields)
    assert length.length(config) == (60, (30, 48), 6)
    steps = np.arange(60)
    expected = 0.1 * np.minimum(1, (steps + 1) / 6) * np.where(steps < 30, 1, np.where(steps < 48, 0.1, 0.01))
    np.testing.assert_allclose(build.schedule(config)(jnp.asarray(steps)), expected, rtol=1e-6)
    assert length.length(parsing.load("folder", ["train.iterations=60"])) == (60, (30, 45), 2)
    assert length.length(parsing.load("folder")).warmup == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer.warmup_steps": 60}, "warmup_steps=60 is as long as the training of 60 iterations"),
        ({"optimizer.warmup_steps": 100}, "warmup_steps=100 is as long as the training of 60 .* such as 0.05"),
        ({"optimizer.warmup_steps": 1.5}, "warmup_steps is 1.5, but it must be whole iterations, or a share"),
        ({"train.epochs": 0}, "train.epochs is 0.0, but it must be above 0"),
        ({"train.epochs": math.inf}, "train.epochs is inf"),
        ({"train.epochs": math.nan}, "train.epochs is nan"),
    ],
)
def test_lengths_that_no_run_can_have(fields, message):
    with pytest.raises(InputError, match=message) as error:
        checks.check(small_config(fields))
    assert "\n" not in str(error.value)


def test_a_warm_up_that_is_too_long_for_its_epochs_is_refused_before_there_is_a_workdir(tmp_path):
    with pytest.raises(InputError, match="warmup_steps=60 is as long as the training of 18 iterations"):
        train(small_config({"train.epochs": 0.2, "optimizer.warmup_steps": 60}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_drops_that_a_run_ends_before_are_said():
    said = length.unreached(parsing.load("imagenet", {"train.iterations": 300_000}))
    assert said == "the rate does not drop after iteration 300000: the run ends with iteration 300000"
    assert length.unreached(parsing.load("imagenet")) is None
    assert length.unreached(parsing.load("imagenet", {"train.iterations": 9, "optimizer.schedule": "plateau"})) is None


LENGTHS = [
    {"train.iterations": total, "optimizer.boundaries": boundaries, "optimizer.warmup_steps": warmup}
    for total, boundaries, warmup in itertools.product(
        (20, 40), ((0.5, 0.75), (10, 15), (20, 30), (30,), ()), (0, 2, 0.1)
    )
]


def test_a_run_may_become_longer_exactly_where_its_rates_stay_what_they_were(tmp_path):
    configs = [parsing.load("digits", fields) for fields in LENGTHS]
    rates = [np.broadcast_to(np.asarray(build.schedule(config)(jnp.arange(20)), np.float32), 20) for config in configs]
    allowed = 0
    for (theirs, before), (ours, after) in itertools.product(zip(configs, rates, strict=True), repeat=2):
        for done in (0, 5, 11, 20):
            same = np.array_equal(before[:done], after[:done])
            with contextlib.nullcontext() if same else pytest.raises(InputError):
                length.change(tmp_path, theirs, ours, done)
            allowed += same
    assert 1_000 < allowed < 3_000


def test_the_past_of_a_plateau_knows_no_length(tmp_path):
    config = parsing.load("digits", {"optimizer.schedule": "plateau"})
    longer = parsing.load("digits", {"optimizer.schedule": "plateau", "train.iterations": 2_400})
    said = length.change(tmp_path, config, longer, 1_200)
    assert said == "this run changes: iterations 2400 instead of 1200"


# The drops of 20 iterations, which 40 have at other places.
KEPT = {"optimizer.boundaries": (10, 15)}
LONGER = OF_20 | {"train.iterations": 40}


@pytest.mark.slow
def test_a_complete_run_becomes_longer_where_the_schedule_allows_it(run_of_20, tmp_path, capsys):
    run, whole = shutil.copytree(run_of_20, tmp_path / "run"), tmp_path / "whole"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(InputError) as error:
        train(small_config(LONGER), run)
    assert str(error.value) == (
        f"{run} cannot go on so, for its 20 iterations would have had other learning rates: iterations 40 instead of "
        "20, drops of the rate after iteration 20, 30 instead of 10, 15. config.optimizer.boundaries=10,15 leaves "
        "them as they were, another workdir begins again"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"} == before
    capsys.readouterr()

    # Killed on its way, it has the result of before, and is not complete.
    train_until(30, small_config(LONGER | KEPT), run)
    assert "this run changes: iterations 40 instead of 20\n" in capsys.readouterr().out
    assert result_of(run)["step"] == 20
    assert workdir.complete_result(run) is None
    assert workdir.read_config(run).train.iterations == 40
    assert train(small_config(LONGER | KEPT), run).result["step"] == 40
    train(small_config(LONGER | KEPT), whole)
    assert_same_run(run, whole)
    assert workdir.complete_result(run) == workdir.read_result(run)

    with pytest.raises(InputError, match="has been trained for 40 iterations, more than the 20 that are asked for"):
        train(small_config(OF_20 | KEPT), run)
    capsys.readouterr()
    # Shares that say the same.
    assert train(small_config(LONGER | {"optimizer.boundaries": (0.25, 0.375)}), run).result["step"] == 40
    assert "is complete after 40 iterations" in capsys.readouterr().out


@pytest.mark.slow
def test_epochs_stay_in_the_config_and_are_the_same_run_as_their_iterations(tmp_path, capsys):
    fields = OF_20 | {"train.epochs": 0.2, "train.iterations": 1_000}
    run, other = tmp_path / "run", tmp_path / "other"
    train_until(10, small_config(fields), run)
    assert train(small_config(fields), run).result["step"] == 18  # of 16 of 1,437 images
    saved = json.loads((run / "config.json").read_text())["train"]
    assert (saved["epochs"], saved["iterations"]) == (0.2, 18)
    assert "training  0.2 epochs, 18 iterations of 16 images\n" in capsys.readouterr().out
    train(small_config(fields), run)
    assert "is complete after 18 iterations" in capsys.readouterr().out
    train(small_config(OF_20 | {"train.iterations": 18}), other)
    assert_same_run(run, other)
    capsys.readouterr()
    train(small_config(OF_20 | {"train.iterations": 18}), run)
    assert "is complete after 18 iterations" in capsys.readouterr().out
    assert saved_steps(run) == [10, 18]
    assert len(lines_of(run)) == 2


def test_a_warm_up_of_before_is_the_share_of_today(tmp_path):
    """A folder's config had 100 iterations, which are a thirtieth of its 3,000."""
    before = parsing.load("folder", {"optimizer.warmup_steps": 100})
    workdir.claim(tmp_path, before)
    theirs = workdir.claim(tmp_path, parsing.load("folder"))
    assert length.is_complete(3_000, theirs, parsing.load("folder"))
    assert length.change(tmp_path, theirs, parsing.load("folder"), 1_000) is None
    assert not length.is_complete(3_000, theirs, parsing.load("folder", {"train.epochs": 5}))
