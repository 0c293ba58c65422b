"""The scripts for GPUs: the parts of one, with tiny settings on a CPU; what another says without a GPU's compiler."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import peers
import pytest

from resnet_jax import models
from resnet_jax.cli.main import main

SCRIPT = Path(__file__).parent.parent / "experiments" / "gpu" / "run_all.sh"

# What is called instead of Python: it notes its arguments, and answers as the commands do.
FAKE = """#!/bin/bash
{ printf '%s\\t' "$@"; echo; } >>"$(dirname "$0")/log"
for argument; do
  [[ $argument == --workdir=* ]] && mkdir -p "${argument#*=}" && echo '{}' >"${argument#*=}/result.json" && exit
done
echo '{}'
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script with parts and variables of its environment."""
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "TINY", "TORCH")},
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # it computes more than it compiles
        "RESULTS": str(tmp_path / "results"),
        "RUNS": str(tmp_path / "runs"),
        "PYTHON": sys.executable,
    }

    def started(*parts, **variables):
        given = {**environment, **variables}
        return subprocess.run(["bash", SCRIPT, *parts], env=given, cwd=tmp_path, capture_output=True, text=True)

    return started


def results(tmp_path):
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}


@pytest.fixture
def commands(run, tmp_path):
    """The command lines of all parts, as they are for a GPU; nothing is measured."""
    fake = tmp_path / "fake"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    done = run(PYTHON=str(fake))
    assert done.returncode == 0, done.stderr
    return [line.split("\t")[:-1] for line in (tmp_path / "log").read_text().splitlines()]


def test_all_parts_make_command_lines_that_the_commands_take(commands, run, tmp_path, monkeypatch, capsys):
    taken = []

    def record(name):
        def benchmark(*_, **fields):
            taken.append((name, fields))
            return {}

        return benchmark

    for name in ("train", "eval", "compile", "memory"):
        monkeypatch.setattr(importlib.import_module(f"resnet_jax.benchmark.{name}"), f"{name}_benchmark", record(name))
    monkeypatch.setattr(peers, "measure", lambda job, forms, *_: taken.append(("peers", (job, forms))) or {})
    configs = []
    for first, *arguments in commands:
        if first == "-m":
            assert arguments[0] == "resnet_jax.cli.main"
            trains = arguments[1] == "train"
            assert main([*arguments[1:], *(["--print_config"] if trains else [])]) == 0, arguments
            said = capsys.readouterr().out
            configs += [said] if trains else []
        elif Path(first).name == "peers.py":
            peers.compare(arguments)
        else:
            assert Path(first).name in ("linen.py", "input_speed.py")
    assert len(configs) == 7  # 2 streams and 5 recipes
    assert sum("depth = 110" in each or "depth=110" in each for each in configs) == 2
    grouped = [fields for name, fields in taken if name == "train" and fields["bn_group_size"]]
    assert {(each["model"], each["bn_group_size"], each["dtype"]) for each in grouped} == {
        ("cifar_resnet20", 64, "bfloat16"),
        ("resnet50", 32, "bfloat16"),
    }
    assert all({"scanned", "unrolled_scanned"} <= each["variants"].keys() for each in grouped)
    works = {(job.task, job.model) for job, _ in (about for name, about in taken if name == "peers")}
    networks = ("resnet50", "cifar_resnet20", "cifar_resnet110")
    assert works == {(task, model) for task in ("train", "infer") for model in networks}
    for model in {fields["model"] for _, fields in taken if isinstance(fields, dict) and "model" in fields}:
        models.create(model)
    assert run("no_such_part").returncode == 2


@pytest.mark.slow
def test_parts_leave_results(run, tmp_path):
    # The other parts are these with another precision or network.
    parts = ("cifar_bfloat16", "eval", "compile", "memory", "variants", "variants_groups", "peers_resnet20")
    done = run(*parts, TINY="1")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert set(found) == {
        "train_cifar_resnet8_bfloat16",
        "eval_cifar_resnet8_bfloat16",
        "eval_cifar_resnet8_float32",
        "compile_cifar",
        "memory_cifar_resnet8",
        "variants_cifar_resnet8",
        "variants_groups_cifar_resnet8",
        "peers_train_resnet20_bfloat16",
        "peers_infer_resnet20_bfloat16",
    }
    for name, result in found.items():
        assert result["environment"]["jax"]
        if name.startswith("eval"):
            assert result["images_per_second"] > 0
        elif name.startswith("compile"):
            assert [row["name"] for row in result["models"]] == ["cifar_resnet8"]
        elif name.startswith("memory"):
            assert [row["batch_size"] for row in result["programs"]] == [8, 16]
        elif name.startswith("peers"):
            (forms,) = result["works"].values()
            assert list(forms) == ["torch", "ours"]
            assert forms["ours"]["share_of_roofline"] > 0
            assert forms["torch"].keys() & {"reason", "images_per_second"}
        else:
            assert all(variant["images_per_second"] > 0 for variant in result["variants"])
    assert [row["name"] for row in found["variants_groups_cifar_resnet8"]["variants"]] == [
        *("scanned", "unrolled_scanned", "rolled", "unrolled")
    ]


@pytest.mark.slow
@pytest.mark.test_data
def test_parts_on_images_leave_results_and_are_not_run_twice(run, test_data, tmp_path):
    parts = ("input", "stream", "recipe_plain20", "recipe_resnet110")
    data = {"TINY": "1", "DATA": str(test_data / "tfds")}
    first = run(*parts, **data)
    assert first.returncode == 0, first.stderr
    found = results(tmp_path)
    recipes = {"recipe_cifar_plain_20_float32", "recipe_cifar_resnet_110_float32"}
    assert set(found) == {"input_speed", "stream_resnet50_bfloat16", *recipes}
    for name, result in found.items():
        assert result["environment"]["jax"]
        if name.startswith("recipe"):
            assert result["step"] == 4
            assert result["test_images"] == 10_000
            assert result["training_seconds"] > 0
        elif name.startswith("stream"):
            assert (result["step"], result["validation_images"]) == (2, 100)

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    second = run(*parts, **data)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already in") == len(found)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="JAX has a compiler for a GPU here")
def test_the_programs_of_a_gpu_need_its_compiler():
    found = subprocess.run([sys.executable, SCRIPT.with_name("program.py")], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith('error: JAX has no compiler for GPUs here, which `pip install "jax[cuda13]==')
    assert len(found.stderr.splitlines()) == 1
