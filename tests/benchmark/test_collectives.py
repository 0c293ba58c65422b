"""The plan on paper, with bytes that can be counted by hand."""

import subprocess
import sys

import collectives
import jax
import jax.numpy as jnp
import pytest

from resnet_jax import models

TINY = {
    "model": "cifar_resnet8",
    "shortcut": None,
    "batch_size": 16,
    "image_size": 8,
    "bn_group_size": 1,
    "fsdp": 1,
    "grad_accum_steps": 1,
}


def scalars(collection):
    model = models.create("cifar_resnet8")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes[collection]))


SIZE = 4 * (scalars("params") + scalars("batch_stats") + 3)


def test_the_bytes_are_those_of_parameters_statistics_and_three_metrics():
    found = collectives.read_step(**TINY)
    assert (found["parameters"], found["statistics"]) == (scalars("params"), scalars("batch_stats"))
    (row,) = found["collectives"]
    assert (row["kind"], row["devices"], row["count"]) == ("all-reduce", 8, 1)
    assert row["bytes"] == row["largest_bytes"] == SIZE
    assert row["sent_bytes"] == found["sent_bytes"] == pytest.approx(2 * 7 / 8 * SIZE)


@pytest.mark.slow
def test_the_bytes_where_devices_share_the_parameters():
    found = collectives.read_step(**TINY | {"fsdp": 4, "grad_accum_steps": 2})
    assert {(row["kind"], row["devices"]) for row in found["collectives"]} == {
        ("all-gather", 4),
        ("reduce-scatter", 4),
        ("all-reduce", 2),
        ("all-reduce", 8),
    }
    # 3/4 of what is gathered and of what is scattered; 2 · 1/2 of a quarter of it; 2 · 7/8 of the rest, in which
    # each of the two metrics has a count of its own that the microbatches add up.
    sharded = next(row["bytes"] for row in found["collectives"] if row["kind"] == "all-gather")
    assert found["sent_bytes"] == pytest.approx(3 / 4 * 2 * sharded + sharded / 4 + 7 / 4 * (SIZE + 4 - sharded))


def test_times_are_bytes_by_bandwidth_where_the_link_reaches():
    for devices, unreached in ((2, set()), (1024, {"NVLink 4 (H100 SXM)", "ICI (TPU v5e)"})):
        found = collectives.times({"devices": devices, "sent_bytes": 1e9}, step_time=0.25)
        assert {time["name"] for time in found if time["seconds"] is None} == unreached
        for (name, bandwidth, _), time in zip(collectives.LINKS, found, strict=True):
            if name not in unreached:
                assert time["seconds"] == 1e9 / bandwidth
                assert time["share"] == pytest.approx(time["seconds"] / (0.25 + time["seconds"]))


@pytest.mark.slow
def test_the_script_prints_a_plan_for_devices_that_are_not_there():
    flags = ["--model=cifar_resnet8", "--batch_size=1024", "--image_size=8", "--bn_group_size=1", "--step_time=0.25"]
    command = [sys.executable, collectives.__file__, *flags, "--devices=2,1024"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in text.splitlines()]
    assert ["2", "1,024", "all-reduce", "2", "1", *[f"{SIZE / 1e6:.3f}"] * 3] in rows
    last = ["1,024", "1,024", "all-reduce", "1,024", "1", *[f"{SIZE / 1e6:.3f}"] * 2]
    assert [*last, f"{2 * 1023 / 1024 * SIZE / 1e6:.3f}"] in rows
    assert text.count("out of reach") == 2
    assert f"{SIZE / 12.5e9 * 1e3:.3f} (0.0% of the step)" in text
    assert f"{scalars('params'):,} parameters" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 12}, "batch_size=12 cannot be divided by 8 devices"),
        ({"bn_group_size": 3}, "bn_group_size=3 does not fit the 2 images"),
        ({"fsdp": 3}, "fsdp is 3, which does not divide the 8 devices"),
    ],
)
def test_what_devices_cannot_share_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        collectives.read_step(**TINY | wrong)
