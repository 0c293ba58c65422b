"""What the command line says of itself: help, versions, the config of a run, and completion in a shell."""

import importlib.metadata
import re
import shlex
import shutil
import subprocess

import pytest

from needs import unavailable
from resnet_jax import configs
from resnet_jax.cli.help import completion_script
from resnet_jax.cli.main import COMMANDS, main
from resnet_jax.configs import fields


def output(capsys, line):
    assert main(line.split()) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_help_of_a_command_in_four_ways(capsys):
    shown = {output(capsys, line) for line in ("train --help", "train -h", "help train", "train --workdir=x -h")}
    assert len(shown) == 1
    assert "benchmark train" in output(capsys, "benchmark --help")
    assert "prepare cache --dataset" in output(capsys, "help prepare cache")


def test_help_of_train_names_every_field(capsys):
    shown = output(capsys, "train --help")
    flags = dict(re.findall(r"^  --config\.(\S+?)=(\S+)", shown, re.MULTILINE))
    assert flags == {field.name: fields.as_text(field.default) for field in configs.described()}
    text = " ".join(shown.split())
    assert all(" ".join(field.comment.split()) in text for field in configs.described())
    assert "Ignored where `train.epochs` is set." in text
    assert "`train.iterations` is ignored." in text
    assert "Layers with weights" not in output(capsys, "evaluate --help")
    shown = output(capsys, "train --config=imagenet --help")
    assert "with their values in imagenet:" in shown
    # As the command reads it: in one word or two, and the last one counts.
    assert output(capsys, "train --config imagenet --help") == shown
    assert output(capsys, "train --config=digits --config imagenet -h") == shown
    assert "in cifar10, which the other configs amend:" in output(capsys, "train --config --help")
    assert "--config.stream.scales=256,480" in shown
    assert "--config.model.depth=50" in shown


def test_help_of_a_config_that_is_none(capsys):
    assert main(["train", "--help", "--config=digts"]) == 2
    assert "did you mean 'digits'?" in capsys.readouterr().err


def test_version(capsys):
    found = {name: importlib.metadata.version(name) for name in ("deep-residual-jax", "jax", "flax")}
    shown = output(capsys, "--version")
    assert shown.startswith(f"resnet-jax {found['deep-residual-jax']} (jax {found['jax']}, flax {found['flax']}, Py")


def test_a_printed_config_is_read_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = "--config.model.depth=8 --noconfig.dataset.mirror --config.model.dtype=auto --config.mesh.data=1"
    shown = output(capsys, f"train --config=digits {given} --print_config")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.py").write_text(shown)
    expected = {"model.depth": 8, "dataset.mirror": False, "model.dtype": "auto", "mesh.data": 1}
    assert fields.flat(configs.load("mine.py")) == fields.flat(configs.load("digits", expected))
    assert output(capsys, "train --config=mine.py --print_config") == shown


SHELL = """source <(resnet-jax completion bash)
COMP_LINE="$1"; COMP_POINT=${#1}; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_resnet_jax; printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(line, *words):
    """What bash offers at the end of a line, which it cuts into words."""
    words = words or line.split(" ")
    script = SHELL.replace("source <(resnet-jax completion bash)", completion_script("bash", COMMANDS))
    found = subprocess.run(["bash", "-c", script, "bash", line, *words], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    return found.stdout.split()


def test_bash_completes_commands_flags_and_configs():
    if not shutil.which("bash"):
        unavailable("there is no bash")
    assert complete("resnet-jax ") == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert complete("resnet-jax ev") == ["evaluate"]
    assert complete("resnet-jax benchmark ") == ["train", "eval", "input", "compile", "memory"]
    assert complete("resnet-jax prepare s") == ["stage"]
    assert complete("resnet-jax prepare stage gs://bucket/photos --t") == ["--to="]
    assert complete(".venv/bin/resnet-jax evaluate --workdir=a --prot") == [
        "--protocol=center",
        "--protocol=ten_crop",
        "--protocol=dense",
    ]
    assert complete("resnet-jax train --print") == ["--print_config"]
    assert complete("resnet-jax train --config.model.de") == ["--config.model.depth="]
    # "=" ends a word for bash, and what it is given replaces the last one.
    assert complete("resnet-jax train --config=dig", "resnet-jax", "train", "--config", "=", "dig") == ["digits"]
    found = complete("resnet-jax evaluate --format=", "resnet-jax", "evaluate", "--format", "=")
    assert found == ["table", "json"]
    # A file is wanted: nothing is offered, and bash offers files.
    assert complete("resnet-jax train --workdir=ru", "resnet-jax", "train", "--workdir", "=", "ru") == []
    assert complete("resnet-jax prepare cache --fo") == ["--form=raw", "--form=jpeg"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_accept_their_scripts(shell):
    script = completion_script(shell, COMMANDS)
    assert all(name.split()[-1] in script for name in COMMANDS)
    assert all(f"config.{field.name}" in script for field in configs.described())
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", script], check=True)


def test_scripts_hold_nothing_that_a_shell_would_run():
    for shell in ("bash", "fish"):
        for line in completion_script(shell, COMMANDS).splitlines():
            assert "`" not in line
            if shell == "fish":
                shlex.split(line)
