"""What the benchmark reports is consistent; how fast anything is, no test says."""

import json
import math

import jax
import pytest
from linen import VARIANTS as LINEN

from resnet_jax.analysis import summary
from resnet_jax.benchmark import VARIANTS, train_benchmark
from resnet_jax.cli.benchmarks import benchmark_train
from resnet_jax.cli.main import main
from resnet_jax.errors import InputError
from resnet_jax.models import create

TINY = {"model": "cifar_resnet8", "batch_size": 8, "image_size": 8, "steps": 2}


def check(result, steps_per_dispatch, rounds):
    cost = summary(create("cifar_resnet8"), 8)["multiply_adds"]
    assert result["multiply_adds"] == cost
    assert [row["steps_per_dispatch"] for row in result["variants"]] == steps_per_dispatch
    for row in result["variants"]:
        step = row["step_time"]
        assert 0 < step["q1"] <= step["median"] <= step["q3"]
        assert step["n"] == row["relative_speed"]["n"] == rounds
        assert row["images_per_second"] == pytest.approx(8 / step["median"])
        assert row["multiply_adds_per_second"] == pytest.approx(3 * cost * row["images_per_second"])
        operations, peaks = result["roofline"]["operations"], result["roofline"]["peaks"]
        assert row["share_of_peak"] * step["median"] * peaks["operations_per_second"] == pytest.approx(operations)
        assert row["share_of_roofline"] * step["median"] == pytest.approx(result["roofline"]["least_time"])
        # Three times the forward pass, but for the gradient of the images: 8 images, 27 x 16 weights, 64 pixels.
        assert operations == 2 * 8 * (3 * cost - 64 * 27 * 16)
        assert all(row[f"{part}_time"] > 0 for part in ("init", "trace", "compile", "first_dispatch"))
        assert row["program_bytes"] > 0
        assert math.isfinite(row["loss"])
    first = result["variants"][0]["relative_speed"]
    assert first["q1"] == first["q3"] == 1
    assert result["environment"]["devices"] == jax.device_count()
    assert json.loads(json.dumps(result)) == result


@pytest.mark.usefixtures("known_peaks")
def test_variants_on_a_fixed_batch():
    variants = {**LINEN, "scanned": VARIANTS["scanned"]}
    result = train_benchmark(**TINY, input="synthetic", variants=variants, rounds=3)
    check(result, [1, 2], rounds=3)
    # Eight steps or nine on one batch.
    assert max(row["loss"] for row in result["variants"]) < math.log(10)
    assert [row["name"] for row in result["variants"]] == result["arguments"]["variants"] == ["linen", "scanned"]
    assert result["arguments"]["shortcut"] == "A"


@pytest.mark.slow
def test_the_command_prints_tables(monkeypatch, capsys):
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    with monkeypatch.context() as script:  # what linen.py does
        script.setitem(VARIANTS, "linen", LINEN["linen"])
        benchmark_train([*flags, "--rounds=1", "--variants=rolled,linen"])
    text = capsys.readouterr().out
    assert "fake devices" in text
    assert "variants=rolled,linen" in text
    assert "G operations/s" in text
    assert text.count("\n  rolled") == text.count("\n  linen") == 2
    assert f"jax {jax.__version__}" in text
    assert max(map(len, text.splitlines())) <= 160

    assert main(["benchmark", "train", "--variants=linen,scanned"]) == 2
    assert "--variants has 'linen', but each must be one of run, scanned, rolled" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("known_peaks")
def test_the_input_on_the_device_runs_through_the_real_step():
    result = train_benchmark(**TINY, input="device", dtype="bfloat16", shortcut="B", rounds=1)
    assert [row["name"] for row in result["variants"]] == ["run"]
    assert result["arguments"] == {
        **TINY,
        "shortcut": "B",
        "dtype": "bfloat16",
        "bn_group_size": None,
        "input": "device",
        "variants": ["run"],
        "rounds": 1,
    }


@pytest.mark.slow
@pytest.mark.usefixtures("known_peaks")
def test_groups_of_batch_norm_reach_the_network_and_linen_has_none():
    """With statistics of 8 images or of 1 the losses differ."""
    fields = {**TINY, "input": "synthetic", "rounds": 1}
    losses = [train_benchmark(**fields, bn_group_size=size)["variants"][0]["loss"] for size in (None, 8, 1)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-2)
    with pytest.raises(InputError, match="leave linen out"):
        train_benchmark(**fields, bn_group_size=8, variants=LINEN)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bn_group_size": 3}, "bn_group_size=3 does not fit"),
        ({"bn_group_size": 0}, "bn_group_size is 0"),
        ({"input": "disk"}, "input is 'disk', but it must be one of device, synthetic"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"model": "cifar_resnet21"}, "6n\\+2"),
        ({"batch_size": 9}, "batch_size=9 cannot be divided by 8 devices"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        train_benchmark(**{**TINY, **wrong})
