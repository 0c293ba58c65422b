"""What the compiler says of memory is reported as it says it; nothing is run."""

import json

import pytest

from resnet_jax.analysis import summary
from resnet_jax.benchmark import memory_benchmark
from resnet_jax.benchmark.memory import as_text
from resnet_jax.cli.benchmarks import benchmark_memory
from resnet_jax.errors import InputError

TINY = {"model": "cifar_resnet8", "image_size": 8, "batch_sizes": [8, 16]}


def test_the_result(capsys):
    benchmark_memory(["--model=cifar_resnet8", "--image_size=8", "--batch_sizes=8,16", "--format=json"])
    result = json.loads(capsys.readouterr().out)
    costs = summary("cifar_resnet8", 8)
    assert result["parameter_bytes"] == 4 * costs["parameters"]
    # The momentum is as large, and beside it there are a few counts.
    assert 0 <= result["optimizer_bytes"] - 4 * costs["parameters"] < 100
    assert result["activation_bytes"] == costs["activation_bytes"]
    assert [each["batch_size"] for each in result["programs"]] == [8, 16]
    for each in result["programs"]:
        # On each of 8 devices: the state, and of the batch float32 pixels at least.
        least = 8 * costs["parameters"] + each["batch_size"] // 8 * 4 * 8 * 8 * 3
        assert least < each["argument_bytes"] < 1.1 * least
        assert each["argument_bytes"] + each["temporary_bytes"] <= each["program_bytes"]
    small, large = (each["program_bytes"] for each in result["programs"])
    assert result["bytes_per_image"] == pytest.approx(large - small)
    text = as_text(result)
    assert "batch_sizes=8,16" in text
    assert f"{large / 2**20:,.2f}" in text
    assert f"{result['parameter_bytes'] / 2**20:,.2f}" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_sizes": [8, 8]}, r"batch_sizes is \[8, 8\], but a line needs two sizes"),
        ({"batch_sizes": [8, 0]}, "batch_sizes is 0"),
        ({"batch_sizes": [8, 12]}, "batch_sizes=12 cannot be divided by 8 devices"),
        ({"model": "cifar_resnet21"}, "6n\\+2"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        memory_benchmark(**TINY | wrong)
