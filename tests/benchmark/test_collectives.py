"""The plan on paper, with bytes that can be counted by hand."""

import json

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import cli, models
from resnet_jax.benchmark import collectives_benchmark, render_collectives
from resnet_jax.benchmark.collectives import LINKS
from resnet_jax.errors import InputError

TINY = {"model": "cifar_resnet8", "batch_size": 1024, "image_size": 8, "group_size": 1}


@pytest.fixture(scope="module")
def result():
    return collectives_benchmark(**TINY, devices=(2, 1024), step_time=0.25)


def scalars(collection):
    model = models.create("cifar_resnet8")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes[collection]))


@pytest.mark.slow
def test_the_bytes_are_those_of_parameters_statistics_and_three_metrics(result):
    assert (result["parameters"], result["statistics"]) == (scalars("params"), scalars("batch_stats"))
    size = 4 * (scalars("params") + scalars("batch_stats") + 3)
    assert [plan["devices"] for plan in result["plans"]] == [2, 1024]
    for plan in result["plans"]:
        devices = plan["devices"]
        (row,) = plan["collectives"]
        assert (row["kind"], row["devices"], row["count"]) == ("all-reduce", devices, 1)
        assert row["bytes"] == row["largest_bytes"] == plan["bytes"] == size
        assert row["sent_bytes"] == plan["sent_bytes"] == pytest.approx(2 * (devices - 1) / devices * size)
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
def test_times_are_bytes_by_bandwidth_where_the_link_reaches(result):
    assert len(result["links"]) == len(LINKS)
    unreached = set()
    for plan in result["plans"]:
        for link, time in zip(result["links"], plan["times"], strict=True):
            assert time["name"] == link["name"]
            if link["reach"] is not None and link["reach"] < plan["devices"]:
                assert time["seconds"] is time["share"] is None
                unreached.add((link["name"], plan["devices"]))
            else:
                assert time["seconds"] == plan["sent_bytes"] / link["bandwidth"]
                assert time["share"] == pytest.approx(time["seconds"] / (0.25 + time["seconds"]))
    assert unreached == {("NVLink 4 (H100 SXM)", 1024), ("ICI (TPU v5e)", 1024)}


@pytest.mark.slow
def test_the_tables(result):
    text = render_collectives(result)
    rows = [line.split() for line in text.splitlines()]
    size = 4 * (scalars("params") + scalars("batch_stats") + 3)
    assert ["2", "1,024", "all-reduce", "2", "1", *[f"{size / 1e6:.3f}"] * 3] in rows
    last = ["1,024", "1,024", "all-reduce", "1,024", "1", *[f"{size / 1e6:.3f}"] * 2]
    assert [*last, f"{2 * 1023 / 1024 * size / 1e6:.3f}"] in rows
    assert text.count("out of reach") == 2
    assert f"{size / 12.5e9 * 1e3:.3f} (0.0% of the step)" in text
    assert "devices=2,1024" in text
    assert f"{result['parameters']:,} parameters" in text


@pytest.mark.slow
def test_the_command_prints_the_plan_of_its_arguments(capsys):
    arguments = ["--model=cifar_resnet8", "--image_size=8", "--batch_size=16", "--devices=8", "--fsdp=4"]
    assert cli.main(["benchmark", "collectives", *arguments, "--accumulate=2", "--group_size=1", "--format=json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (plan,) = result["plans"]
    assert plan["batch_size"] == 16
    assert {(row["kind"], row["devices"]) for row in plan["collectives"]} == {
        ("all-gather", 4),
        ("reduce-scatter", 4),
        ("all-reduce", 2),
        ("all-reduce", 8),
    }
    assert plan["times"][0]["share"] is None
    # 3/4 of what is gathered and of what is scattered; 2 · 1/2 of a quarter of it; 2 · 7/8 of the rest.
    cut = next(row["bytes"] for row in plan["collectives"] if row["kind"] == "all-gather")
    rest = 4 * (scalars("params") + scalars("batch_stats") + 3) - cut
    assert plan["sent_bytes"] == pytest.approx(3 / 4 * 2 * cut + cut / 4 + 7 / 4 * rest)


# Found before a process is started, and by it.
WRONG = [
    ({"model": "cifar_resnet21"}, "6n\\+2"),
    ({"shortcut": "D"}, "unknown shortcut 'D'"),
    ({"devices": (8, 0)}, "devices is 0, but it must be at least 1"),
    ({"devices": ()}, "devices is empty"),
    ({"accumulate": 0}, "accumulate is 0"),
    ({"step_time": -1.0}, "step_time is -1"),
]
WRONG_THERE = [
    ({"batch_size": 12, "devices": (8,)}, "batch_size=12 cannot be divided by 8 devices"),
    ({"batch_size": 16, "group_size": 3, "devices": (2,)}, "group_size=3 does not fit the 8 images"),
    ({"fsdp": 2, "devices": (3,)}, "fsdp is 2, which does not divide the 3 devices"),
]


@pytest.mark.parametrize("cases", [WRONG, pytest.param(WRONG_THERE, marks=pytest.mark.slow)], ids=["here", "there"])
def test_wrong_arguments_are_refused_in_one_line(cases):
    for wrong, message in cases:
        with pytest.raises(InputError, match=message) as refusal:
            collectives_benchmark(**{**TINY, **wrong})
        assert "\n" not in str(refusal.value)


def test_a_number_of_devices_that_is_none_is_refused(capsys):
    assert cli.main(["benchmark", "collectives", "--devices=8,many"]) == 2
    assert capsys.readouterr().err == (
        "error: --devices=8,many is wrong: it must be numbers of devices, such as 8,64\n"
    )
