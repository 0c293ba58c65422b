"""What the benchmark of inference reports is consistent."""

import json

import pytest

from resnet_jax.benchmark import eval_benchmark
from resnet_jax.benchmark.eval import as_text
from resnet_jax.cli.benchmarks import benchmark_eval
from resnet_jax.errors import InputError

TINY = {"model": "cifar_resnet8", "batch_size": 8, "image_size": 8, "steps": 1}


@pytest.mark.usefixtures("known_peaks")
def test_the_result(capsys):
    benchmark_eval([*(f"--{name}={value}" for name, value in TINY.items()), "--rounds=2", "--format=json"])
    result = json.loads(capsys.readouterr().out)
    step, bound = result["step_time"], result["roofline"]
    assert 0 < step["q1"] <= step["median"] <= step["q3"]
    assert step["n"] == 2
    assert result["images_per_second"] == pytest.approx(8 / step["median"])
    assert bound["operations"] == 2 * 8 * result["multiply_adds"]
    assert result["share_of_peak"] == pytest.approx(bound["operations"] / step["median"] / 2e11)
    assert result["share_of_roofline"] == pytest.approx(bound["least_time"] / step["median"])
    assert result["first_step_time"] > 0
    assert result["arguments"] == {**TINY, "shortcut": "A", "dtype": "float32", "rounds": 2}
    text = as_text(result)
    assert f" {result['images_per_second']:,.1f} " in text
    assert f" {result['share_of_roofline']:.1%} " in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8', but it must be one of float32, bfloat16"),
        ({"rounds": 0}, "rounds is 0"),
        ({"image_size": 0}, "image_size is 0, but it must be a whole number, at least 1"),
        ({"model": "vgg16"}, "vgg16 is a VGG, and only ResNets are measured"),
        ({"batch_size": 9}, "batch_size=9 cannot be divided by 8 devices"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        eval_benchmark(**{**TINY, **wrong})
