import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from needs import unavailable
from resnet_jax.cli.main import COMMANDS, main

TINY = [
    "--config=digits",
    "--config.model.depth=8",
    "--config.mesh.data=1",
    "--config.train.batch_size=16",
    "--config.train.log_every=10",
    "--config.train.eval_every=20",
    "--config.train.checkpoint_every=10",
]


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def workdir(run_of_20):
    return run_of_20


@pytest.fixture
def place(workdir, tmp_path, monkeypatch):
    """A working directory with a run, a text file, an image and a folder of another data set."""
    (tmp_path / "run").symlink_to(workdir)
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "data" / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD = [
    ("trian", "unknown command 'trian': did you mean 'train'?"),
    ("summary --model=resnte50", "did you mean 'resnet50'?"),
    ("summary --model=resnet51", "ImageNet networks have 18, 34, 50, 101, 152 layers"),
    ("summary --model=cifar_resnet21", "6n+2"),
    ("summary --model=resnet50 --shortcut=D", "unknown shortcut 'D'"),
    ("summary --model=plain18 --shortcut=A", "has no shortcuts"),
    ("summary --model=resnet50 --image_size=0", "at least one pixel"),
    ("summary --model=resnet50 --image_size=x", "--image_size=x"),
    ("summary --model=resnet50 --format=xml", "--format=xml"),
    ("summary", "--model is missing"),
    ("train --config=digts --workdir=new", "did you mean 'digits'?"),
    ("train --config=nothing --workdir=new", "these are cifar10, cifar100, digits"),
    ("train --config=digits:plian --workdir=new", "no variant 'plian'"),
    ("train --config", "--config"),
    ("prepare cahce --dataset=folder", "unknown command 'prepare cahce': did you mean 'prepare cache'?"),
    ("help trian", "did you mean 'train'?"),
    ("TRAIN", "did you mean 'train'?"),
    ("train digits --workdir=new", "unexpected argument 'digits': did you mean --config=digits? see --help"),
    ("train --config=digits --workdir=new --config.dataset.name=cifar01", "did you mean 'cifar10'? it is one of"),
    ("train --config=digits --workdir=new --config.model.family=cifar_resnt", "did you mean 'cifar_resnet'?"),
    ("train --config=digits --workdir=new --print_config --config.model.depth=21", "the nearest depth is 20"),
    ("train --config=digits --workdir=new --print_config=maybe", "it must be true or false"),
    ("summary --model=resnet20", "did you mean 'cifar_resnet20'?"),
    ("summary --model=cifar_resnet18", "the nearest depth is 20, or did you mean 'resnet18'?"),
    ("benchmark train --model=resnet56", "did you mean 'cifar_resnet56'?"),
    ("completion", "one shell is wanted, as in resnet-jax completion bash"),
    ("completion fsh", "there is no completion for 'fsh': did you mean 'fish'? bash, zsh and fish have one"),
    ("train --workdir=new", "--config is missing"),
    ("train --config=digits --wrokdir=new", "workdir"),
    ("train --config=digits --workdir=new more", "unexpected argument 'more'"),
    ("train --config=digits --workdir=text.png", "text.png"),
    ("train --config=digits --workdir=new --config.model.depth=21", "the nearest depth is 20"),
    ("train --config=digits --workdir=new --config.model.shortcut=D", "must be one of A, B, C"),
    ("train --config=digits --workdir=new --config.model.dept=8", "did you mean config.model.depth?"),
    ("train --config=digits --workdir=new --config.modle.depth=8", "did you mean config.model.depth?"),
    ("train --config=digits --workdir=new --config.nothing=8", "nothing"),
    ("train --config=digits --workdir=new --config.model.depth=deep", "depth=deep"),
    ("train --config=digits --workdir=new --config.dataset.mirror=7", "mirror=7"),
    ("train --config=digits --workdir=new --config.model=3", "config.model: it is a section of fields"),
    ("train --config=digits --workdir=new --config.optimizer.boundaries=x,y", "optimizer.boundaries"),
    ("train --config=digits --workdir=new --config.train.batch_size=12", "by 8 devices: use a size such as 8 or 16"),
    ("train --config=digits --workdir=new --config.dataset.name=mnist", "unknown dataset.name 'mnist'"),
    ("train --config=cifar10 --workdir=new --config.dataset.data_dir=absent", "absent does not exist"),
    ("train --config=cifar10 --workdir=new --config.dataset.data_dir=data", "it holds mnist"),
    ("train --config=digits --workdir=run --config.model.depth=14", "model.depth (8 there, 14 asked for)"),
    ("evaluate", "--workdir is missing"),
    ("evaluate --workdir=data", "data is not the workdir of a run"),
    ("evaluate --workdir=absent", "absent is not the workdir of a run"),
    ("evaluate --workdir=run --split=dev", "no split 'dev'"),
    ("evaluate --workdir=run --protocol=none", "--protocol=none"),
    ("evaluate --workdir=run --batch_size=0", "must be at least 1"),
    ("evaluate --workdir=run --scales=big", "--scales=big is wrong"),
    ("evaluate --workdir=run --protocol=ten_crop", "is for image files"),
    ("evaluate --workdir=run --recalibrate=0", "it must be at least 1"),
    ("evaluate --workdir=run,data", "data is not the workdir of a run"),
    ("export --workdir=run", "--output is missing"),
    ("benchmark", "commands are benchmark train, benchmark eval, benchmark input, benchmark comp"),
    ("benchmark evil", "unknown command 'benchmark evil': did you mean 'benchmark eval'?"),
    ("benchmark eval --dtype=float8", "dtype is 'float8', but it must be one of float32, bfloat16"),
    ("benchmark input", "--dataset is missing"),
    ("benchmark input --dataset=folder", "data_dir is missing"),
    ("benchmark compile --models=cifar_resnet20,resnet56", "did you mean 'cifar_resnet56'?"),
    ("benchmark memory --batch_sizes=8", "a line needs two sizes: give several"),
    ("benchmark memory --batch_sizes=x", "--batch_sizes=x is wrong"),
    ("benchmark train --variants=fast", "--variants has 'fast', but each must be one of run, scanned, rolled"),
    ("convert a b --stride_in=3x3", "--stride_in is called --bottleneck_stride now"),
    ("prepare cache --shorter_side=256", "--shorter_side is called --resize_size now"),
    ("train --config=digits --config.model.group_size=8", "did you mean config.model.bn_group_size?"),
    (
        "sweep --config=digits --axis=seed=0 --config.optimizer.ramp_iterations 8 --workdir=new",
        "did you mean config.optimizer.warmup_steps?",
    ),
    ("prepare cache --dataset=folder --data_dir=data", "--output is missing"),
    ("prepare cache --dataset=folder --data_dir=data --output=new", "data/train does not exist"),
    ("train --config=folder --config.dataset.name=cache --config.dataset.data_dir=data --workdir=new", "cache"),
    ("export --workdir=data --output=file", "data is not the workdir of a run"),
    ("train --config=folder --workdir=new", "data_dir is missing: it names a folder that holds train"),
    ("train --config=folder --workdir=new --config.dataset.data_dir=data", "data/train does not exist"),
    ("train --config=imagenet --workdir=new --config.dataset.data_dir=data", "it holds mnist"),
    ("train --config=imagenet --workdir=new --config.stream.crop=none", "stream.crop is 'none'"),
    ("predict --workdir=run", "no image file was given"),
    ("predict image.png", "--workdir is missing"),
    ("predict --workdir=data image.png", "data is not the workdir of a run"),
    ("predict --workdir=run text.png", "text.png cannot be read as an image"),
    ("predict --workdir=run absent.png", "there is no image file or folder absent.png"),
    ("predict --workdir=run data", "the folder data holds no images"),
    ("sweep --config=digits --workdir=new", "at least one --axis"),
    ("sweep --config=digits --axis=seed=0", "--workdir is missing"),
    ("sweep --axis=seed=0 --workdir=new", "--config is missing"),
    ("sweep --config=digits --axis=seed --workdir=new", "is not of the form"),
    ("sweep --config=digits --axis=model.dept=8 --workdir=new", "did you mean config.model.depth?"),
    ("prepare", "--dataset is missing"),
    ("prepare --dataset=mnist", "unknown data set 'mnist'"),
]


def test_bad_input_is_one_line_and_changes_nothing(place, workdir, capsys):
    before, run, wrong = snapshot(place), snapshot(workdir), []
    for line, message in BAD:
        status = main(line.split())
        error = capsys.readouterr().err
        if status != 2 or not error.startswith("error: ") or error.count("\n") != 1 or message not in error:
            wrong.append(f"{line}: {message!r} was expected, but the status is {status} and it says {error!r}")
        if (place / "new").exists():
            wrong.append(f"{line}: makes the workdir")
    assert not wrong, "\n".join(wrong)
    assert snapshot(place) == before
    assert snapshot(workdir) == run


def test_help_lists_every_command(capsys):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert main(argv) == 0
        shown = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert [line.startswith(command) for line, command in zip(shown, COMMANDS, strict=True)] == [True] * len(
            COMMANDS
        )
    assert {"train", "evaluate", "predict", "summary", "sweep", "prepare"} <= set(COMMANDS)


def test_help_of_each_command(capsys):
    for command in COMMANDS:
        assert main([*command.split(), "--help"]) == 0
        captured = capsys.readouterr()
        assert f"resnet-jax {command} " in captured.out
        assert captured.err == ""


def test_summary_as_json(capsys):
    assert main(["summary", "--model=cifar_resnet20", "--format=json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["parameters"] == 269_722  # section 2.4 of the notes on the paper
    assert summary["multiply_adds"] == 40_551_040
    assert main(["summary", "--model", "cifar_resnet20", "--shortcut", "B"]) == 0
    assert "272,474" in capsys.readouterr().out


def test_scores_and_predictions_as_json_and_as_text(place, capsys):
    assert main(["evaluate", "--workdir=run", "--format=json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert (score["images"], score["steps"]) == (360, [20])
    assert main(["evaluate", "--workdir=run"]) == 0
    shown = capsys.readouterr().out
    assert f"test error {score['error']:.2%}" in shown
    assert shown.endswith("by center after 20 iterations\n")

    assert main(["predict", "--workdir=run", "--format=json", "image.png", "image.png"]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert one == other
    assert one["file"] == "image.png"
    assert len(one["classes"]) == 5
    assert main(["predict", "--workdir=run", "image.png"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "%" in line]
    best = one["classes"][0]
    assert rows[0] == ["image.png", best["name"], f"{best['probability']:.1%}"]
    assert [row[0] for row in rows[1:]] == [each["name"] for each in one["classes"][1:]]


def test_a_complete_run_is_not_trained_again(workdir, capsys):
    before = snapshot(workdir)
    assert main(["train", *TINY, "--config.train.iterations=20", f"--workdir={workdir}"]) == 0
    assert "is complete after 20 iterations" in capsys.readouterr().out
    assert snapshot(workdir) == before


def test_the_default_workdir_is_named_after_the_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--config", "digits:plain", *TINY[1:], "--config.train.iterations=1"]
    assert main(["train", *tiny]) == 0
    assert (tmp_path / "runs" / "digits-plain" / "result.json").exists()
    capsys.readouterr()


def start(*arguments):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "COLUMNS": "200"}
    command = [sys.executable, "-m", "resnet_jax.cli.main", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_exit_status_of_the_process():
    process = start("sumary")
    output, error = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert error.startswith("error: unknown command 'sumary'")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["train", "--config=digits", "--config.train.batch_size=12"], 2)]
)
def test_exit_status_of_a_process_that_starts_jax(arguments, status):
    process = start(*arguments)
    _, error = process.communicate()
    assert process.returncode == status
    assert error.count("\n") == (status != 0)
    assert error.startswith("error: ") == (status != 0)


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_and_goes_on(tmp_path, capsys, number):
    long = ["train", *TINY, "--config.train.iterations=100000", f"--workdir={tmp_path / 'run'}"]
    checkpoints = tmp_path / "run" / "checkpoints"
    process = start(*long)
    wait_for((checkpoints / "10").exists, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75
    newest = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    assert error == f"stopped: the state of iteration {newest} is saved; run the same command again to go on\n"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == newest

    # A shorter run from here on is the same run to the reader of checkpoints.
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"]["iterations"] = newest + 10
    del config["checksum"]  # which keeps an edit
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    arguments = [*long[:-2], f"--config.train.iterations={newest + 10}", "--config.optimizer.boundaries=(50000, 75000)"]
    config["optimizer"]["boundaries"] = [50_000, 75_000]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main([*arguments, long[-1]]) == 0
    assert f"going on from the checkpoint of iteration {newest}" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, newest + 11, 10))


FULL_DISK = """
set -e
mount -t tmpfs -o size={size}k tmpfs {disk}
status=0
{command} >{log}/first.out 2>{log}/first.err || status=$?
echo $status >{log}/first.status
cp -r {disk}/run {log}/run
"""
MORE_ROOM = """
mount -o remount,size=40m tmpfs {disk}
{command} >{log}/second.out 2>{log}/second.err || status2=$?
echo ${{status2:-0}} >{log}/second.status
cp {disk}/run/metrics.jsonl {disk}/run/result.json {log}/
"""


def can_mount():
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kilobytes", "whole"), [(100, []), (1400, [10])])
def test_a_full_disk(tmp_path, workdir, capsys, kilobytes, whole):
    """The workdir lies on a file system that is really full: a small tmpfs in a mount namespace of its own."""
    if not can_mount():
        unavailable("this machine does not let a user mount a tmpfs in a namespace of its own")
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    log.mkdir()
    command = [sys.executable, "-m", "resnet_jax.cli.main", "train", *TINY, "--config.train.iterations=30"]
    script = FULL_DISK + (MORE_ROOM if whole else "")
    script = script.format(size=kilobytes, disk=disk, log=log, command=" ".join([*command, f"--workdir={disk}/run"]))
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    subprocess.run(["unshare", "-rm", "sh", "-c", script], env=environment, check=True, timeout=240)

    error = (log / "first.err").read_text()
    assert (log / "first.status").read_text().strip() == "2"
    assert error.startswith("error: the disk is full")
    assert error.count("\n") == 1
    # What was whole before can be loaded.
    kept = sorted(int(path.name) for path in (log / "run" / "checkpoints").iterdir() if path.name.isdigit())
    assert kept == whole
    if not whole:
        return
    assert main(["evaluate", f"--workdir={log}/run", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == whole[-1:]

    # With more room the same command goes on.
    assert (log / "second.status").read_text().strip() == "0"
    assert (log / "second.err").read_text() == ""
    assert f"going on from the checkpoint of iteration {whole[-1]}" in (log / "second.out").read_text()
    lines = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert json.loads((log / "result.json").read_text())["step"] == 30
