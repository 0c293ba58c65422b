"""The GPU script runs its parts, with tiny settings on a CPU, and its results can be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "experiments" / "gpu" / "run_all.sh"


@pytest.mark.slow
@pytest.mark.test_data
def test_parts_leave_results_and_are_not_run_twice(test_data, tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # it computes more than it compiles
        "TINY": "1",
        "DATA": str(test_data / "tfds"),
        "RESULTS": str(tmp_path / "results"),
        "RUNS": str(tmp_path / "runs"),
        "PYTHON": sys.executable,
    }

    def run(*parts):
        return subprocess.run(["bash", SCRIPT, *parts], env=environment, cwd=tmp_path, capture_output=True, text=True)

    # The other parts are these with another precision or network.
    parts = ("cifar_bfloat16", "eval", "compile", "memory", "variants", "input", "stream", "recipe_plain20")
    first = run(*parts)
    assert first.returncode == 0, first.stderr
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    assert set(results) == {
        "train_cifar_resnet8_bfloat16",
        "eval_cifar_resnet8_bfloat16",
        "eval_cifar_resnet8_float32",
        "compile_cifar",
        "memory_cifar_resnet8",
        "variants_cifar_resnet8",
        "input_speed",
        "stream_resnet50_bfloat16",
        "recipe_cifar_plain_20",
    }
    for name, result in results.items():
        assert result["environment"]["jax"]
        if name.startswith("recipe"):
            assert result["step"] == 4
            assert result["test_images"] == 10_000
        elif name.startswith("stream"):
            assert (result["step"], result["validation_images"]) == (2, 100)
        elif name.startswith("eval"):
            assert result["images_per_second"] > 0
        elif name.startswith("compile"):
            assert [row["name"] for row in result["models"]] == ["cifar_resnet8"]
        elif name.startswith("memory"):
            assert [row["batch_size"] for row in result["programs"]] == [8, 16]
        elif name.startswith("train") or name.startswith("variants"):
            assert all(variant["images_per_second"] > 0 for variant in result["variants"])

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    second = run(*parts)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already in") == len(results)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert run("no_such_part").returncode == 2
