"""Programs are compiled without a cache and read from one, and JAX is left as it was."""

import json

import jax
import jax.numpy as jnp
import pytest

from compilations import cache_answers
from resnet_jax.benchmark import compile as compiling, compile_benchmark
from resnet_jax.cli.benchmarks import benchmark_compile
from resnet_jax.errors import InputError
from resnet_jax.models import create

TINY = {"models": ["cifar_resnet8"], "batch_size": 8, "image_size": 8, "rounds": 1}
SETTINGS = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def lower(network, mesh, batch_size, image_size):
    """Another step, which compiles in no time."""
    return None, jax.jit(lambda x: x * batch_size + len(network.stage_sizes)).lower(jnp.ones(image_size))


def test_the_result(monkeypatch, capsys):
    imports = {"import resnet_jax": {"median": 0.25, "q1": 0.25, "q3": 0.25, "n": 1}}
    monkeypatch.setattr(compiling, "import_times", lambda rounds: imports)
    monkeypatch.setattr(compiling, "lower_step", lower)
    before = settings()
    flags = ["--models=cifar_resnet8,cifar_resnet14", "--batch_size=8", "--image_size=8", "--rounds=1"]
    with cache_answers() as answers:
        benchmark_compile([*flags, "--format=json"])
    # Of each network, in the round that is not timed and in the one that is; before, JAX fills an array of ones.
    assert answers[-4:] == ["miss", "miss", "hit", "hit"]
    result = json.loads(capsys.readouterr().out)
    assert settings() == before
    assert result["imports"] == imports
    assert [row["name"] for row in result["models"]] == result["arguments"]["models"]
    row = result["models"][0]
    assert row["image_size"] == 8
    assert all(row[f"{part}_time"]["median"] > 0 for part in ("trace", "compile", "cached"))
    assert all(row[f"{part}_time"]["n"] == 1 for part in ("trace", "compile", "cached", "relative"))
    assert row["relative_time"]["median"] == 1
    assert 3 < row["traced_lines"] < 30
    # The round that is not timed wrote it.
    assert row["cached_bytes"] > 100
    text = compiling.as_text(result)
    assert f" {row['traced_lines']:,} " in text
    assert "import resnet_jax   0.250 (0.250–0.250)" in text


def test_programs_are_read_from_the_folder_alone(tmp_path):
    before = settings()
    with compiling._cached_in(None), cache_answers() as answers:
        assert jax.config.jax_enable_compilation_cache is False
        lower(create("cifar_resnet8"), None, 3, 8)[1].compile()
    assert answers == []

    def stopped():
        with compiling._cached_in(tmp_path):
            for _ in range(2):
                lower(create("cifar_resnet8"), None, 5, 8)[1].compile()
            raise RuntimeError("halfway")

    with cache_answers() as answers, pytest.raises(RuntimeError, match="halfway"):
        stopped()
    assert answers == ["miss", "hit"]
    assert len(list(tmp_path.glob("*-cache"))) == 1
    assert settings() == before


@pytest.mark.slow
def test_the_step_is_the_one_of_training(monkeypatch):
    monkeypatch.setattr(compiling, "import_times", lambda rounds: {})
    (row,) = compile_benchmark(**TINY)["models"]
    assert row["traced_lines"] > 1000
    assert row["cached_bytes"] > 10_000


@pytest.mark.slow
def test_imports_take_time():
    found = compiling.import_times(1)
    bare, used = (each["median"] for each in found.values())
    assert 0 < bare < used


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": []}, r"models is \[\], but it must be a list"),
        ({"models": "cifar_resnet8"}, "models is 'cifar_resnet8', but it must be a list"),
        ({"image_size": "32"}, "image_size is '32'"),
        ({"dtype": ["float32"]}, "dtype is"),
        ({"models": ["cifar_resnet8"] * 2}, "must stand there once"),
        ({"models": ["resnet56"]}, "did you mean 'cifar_resnet56'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"batch_size": 9}, "batch_size=9 cannot be divided by 8 devices"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        compile_benchmark(**TINY | wrong)
