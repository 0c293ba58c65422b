"""Machines that people have: without the devices that were asked for, without a home, with output that nobody reads."""

import json
import os
import subprocess
import sys

import jax
import pytest
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

from resnet_jax.cli import main as command_line
from resnet_jax.cli.main import main
from resnet_jax.configs import digits
from resnet_jax.distributed import machine
from resnet_jax.errors import InputError
from resnet_jax.runs.loop import train

TINY = [
    "--config=digits",
    "--config.model.depth=8",
    "--config.mesh.data=1",
    "--config.train.batch_size=16",
    "--config.train.iterations=2",
    "--config.train.log_every=1",
]


def run(command, *, stdout=subprocess.PIPE, **variables):
    """A command in a process of its own; variables that are None are unset."""
    values = {**os.environ, **variables}
    env = {name: value for name, value in values.items() if value is not None}
    arguments = [sys.executable, "-m", "resnet_jax.cli.main", *command]
    return subprocess.run(arguments, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, check=False)


@pytest.fixture
def no_devices(monkeypatch):
    """JAX as it is where the GPUs that JAX_PLATFORMS asks for are not there: it fails an assertion, without a word."""

    def fail():
        raise AssertionError

    monkeypatch.setattr("jax.devices", fail)
    monkeypatch.setattr("jax.process_index", fail)


def test_no_devices_are_one_line_that_says_what_to_do(no_devices, tmp_path):
    with pytest.raises(InputError, match="JAX found no device") as caught:
        train(digits.get_config(), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_no_devices_are_a_finding_of_the_doctor(no_devices, tmp_path, capsys):
    for format in ("json", "table"):
        assert main(["doctor", f"--workdir={tmp_path}", f"--format={format}"]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: training is impossible here; devices: JAX found no device")
        assert said.err.count("\n") == 1
        assert "JAX found no device" in (json.loads(said.out)["findings"][0]["says"] if format == "json" else said.out)


def test_the_devices_that_there_are(tmp_path):
    machine.check_devices()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["train", *TINY, "--workdir=new"],
        ["doctor"],
        ["evaluate", "--workdir=run"],
        ["benchmark", "train"],
        ["convert", "run", "weights.safetensors"],
    ],
    ids=lambda command: command[0],
)
def test_a_platform_that_is_not_there(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(digits.get_config().to_json())
    for platform in ("cuda", "nonsense"):
        ended = run(command, JAX_PLATFORMS=platform)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: ")
        assert f"JAX_PLATFORMS={platform} asks for devices that JAX did not find" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_what_needs_no_devices():
    ended = run(["summary", "--model=resnet18"], JAX_PLATFORMS="cuda")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_NUM_CPU_DEVICES": "abc"},
        {"JAX_NUM_CPU_DEVICES": "0"},
        {"JAX_ENABLE_X64": "maybe"},
    ],
    ids=str,
)
def test_variables_that_jax_cannot_read_are_named(variables, tmp_path):
    ended = run(["train", *TINY, f"--workdir={tmp_path / 'new'}"], **variables)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert next(iter(variables)) in line


@pytest.mark.slow
def test_without_a_home_or_a_place_for_what_is_compiled(tmp_path):
    for variables in (
        {"HOME": "/nowhere"},
        {"XDG_CACHE_HOME": "/dev/null"},
        {"XDG_CACHE_HOME": "~nobody-of-this-name"},
    ):
        ended = run(["evaluate", f"--workdir={tmp_path}"], JAX_COMPILATION_CACHE_DIR=None, **variables)
        assert ended.stderr == (
            f"error: {tmp_path} is not the workdir of a run (no readable config.json): give a folder that resnet-jax "
            "train made\n"
        )


@pytest.mark.slow
def test_a_reader_that_has_had_enough_stops_no_run(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    ended = run(["train", *TINY, f"--workdir={tmp_path / 'run'}"], stdout=writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "run" / "result.json").exists()
    ended = run(["summary", "--model=resnet18"], stdout=writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    os.close(writing)


@pytest.mark.slow
def test_output_that_is_lost_is_an_error():
    with open("/dev/full", "w") as full:
        ended = run(["summary", "--model=resnet18"], stdout=full)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the disk is full")


@pytest.mark.slow
def test_an_encoding_without_the_letters_of_a_name(tmp_path):
    ended = run(["evaluate", f"--workdir={tmp_path}/日本"], PYTHONIOENCODING="ascii")
    assert ended.returncode == 2
    assert r"\u65e5\u672c is not the workdir" in ended.stderr
    ended = run(["train", *TINY, f"--workdir={tmp_path}/日本"], PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert rf"checkpoint {tmp_path}/\u65e5\u672c/checkpoints/2" in ended.stdout


def test_the_process_of_a_command_that_is_called_is_as_it_was(capsys, monkeypatch):
    monkeypatch.delenv("OPENCV_FOR_THREADS_NUM", raising=False)
    hook, before = sys.unraisablehook, dict(os.environ)
    assert main(["summary", "--model=resnet18"]) == 0
    assert (sys.unraisablehook, dict(os.environ)) == (hook, before)


def test_xla_is_not_asked_to_write_to_an_address(monkeypatch, tmp_path):
    """It would on GPUs, beside the programs that JAX keeps, and every compilation would fail."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches")
    before = {name: getattr(jax.config, name) for name in names}

    def asked():
        options = compiler.get_compile_options(1, 1)
        build = options.executable_build_options  # which lives as long as the options do
        return build.debug_options.xla_gpu_per_fusion_autotune_cache_dir

    try:
        machine.keep_programs(tmp_path)
        assert asked().startswith(str(tmp_path))
        monkeypatch.setattr(machine, "is_remote", lambda path: True)
        machine.keep_programs(tmp_path)
        assert asked() == ""
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
    assert command_line._cache_settings() == {"jax_persistent_cache_enable_xla_caches": "none"}
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert command_line._cache_settings() == {}
