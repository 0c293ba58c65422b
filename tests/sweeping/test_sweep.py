import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from resnet_jax.cli.main import main
from resnet_jax.errors import InputError
from resnet_jax.sweeping import plan

TINY = [
    "--config=digits",
    "--config.model.depth=8",
    "--config.mesh.data=1",
    "--config.train.iterations=8",
    "--config.train.batch_size=16",
    "--config.train.log_every=2",
    "--config.train.checkpoint_every=4",
    # A rate of 1e30 diverges: with weight decay it would be refused before.
    "--config.optimizer.weight_decay=0",
]
# Three minutes are for a machine that does much else.
DEADLINE = 180


WRONG = [
    (["--axis=model.dept=8"], "did you mean config.model.depth?"),
    (["--axis=model.depth=8,deep"], "depth=deep"),
    (["--axis=model.depth=8,9"], "the nearest depth is 8"),
    (["--axis=model.shortcut=A,D"], "'D'"),
    (["--axis=seed=0,1,2", "--axis=model.depth=8,14", "--combine=zip"], "seed has 3, model.depth has 2"),
    (["--axis=seed=0,1", "--jobs=0"], "--jobs is 0"),
    (["--axis=seed=0,1", "--slurm=time=10"], "--slurm is for --launcher=slurm"),
    (["--axis=seed=0,1", "--trials=3"], "--trials is for --searcher=optuna"),
    (["--axis=optimizer.learning_rate=0.1..1"], "search it with --searcher=optuna"),
    (["--axis=seed=0,1", "--searcher=optuna"], "needs --trials=N"),
    (["--axis=seed=0,1", "--searcher=optuna", "--trials=2", "--combine=zip"], "--combine is for grids"),
    (["--axis=seed=0,1", "--searcher=optuna", "--trials=2"], "would choose by the test images"),
    (["--axis=seed=0,1", "--searcher=optuna", "--trials=2", "--launcher=slurm"], "needs --jobs=N"),
    (["--axis=model.depth=8,14..20", "--searcher=optuna", "--trials=2"], "depth=14..20"),
    (["--axis=optimizer.learning_rate=-1..1", "--searcher=optuna", "--trials=2"], "learning_rate is -1"),
]


def test_a_wrong_sweep_is_refused_before_anything_trains(tmp_path, capsys):
    tiny = [each for each in TINY if "depth" not in each]
    for arguments, message in WRONG:
        assert main(["sweep", *tiny, *arguments, f"--workdir={tmp_path / 'sweep'}"]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, arguments
        assert error.count("\n") == 1, arguments
        assert not list(tmp_path.iterdir()), arguments


def test_points_of_another_config_are_refused(tmp_path, capsys):
    point = tmp_path / "seed=0"
    point.mkdir()
    other = cli_config("train.batch_size=32")
    (point / "config.json").write_text(other.to_json_best_effort())
    (point / "result.json").write_text(json.dumps({"step": 8, "split": "test", "test_error": 0.5}))
    assert main(["sweep", *TINY, "--axis=seed=0,1", f"--workdir={tmp_path}"]) == 2
    assert "train.batch_size (32 there, 16 asked for)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["seed=0"]


def cli_config(*overrides):
    from resnet_jax.configs.parsing import load as parse_config

    tiny = [each.removeprefix("--config.") for each in TINY[1:]]
    return parse_config("digits", [*tiny, *overrides])


def test_a_second_sweep_in_a_folder_is_refused(tmp_path, capsys):
    with (tmp_path / "sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["sweep", *TINY, "--axis=seed=0", f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: another sweep is at work in {tmp_path}: wait for it, or use another --workdir\n"
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.lock"]


def start(command):
    return subprocess.Popen(
        [sys.executable, "-m", "resnet_jax.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true, process=None):
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at_work(point):
    """Whether a process trains in the folder of a point."""
    path = point / "lock"
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def outcomes(points):
    """When each complete point ended, how often it was started, and what it wrote on its way."""
    return {
        point: (
            (point / "result.json").stat().st_mtime_ns,
            (point / "log.txt").read_text().count("$ resnet-jax train"),
            (point / "metrics.jsonl").read_bytes(),
        )
        for point in points
        if (point / "result.json").exists()
    }


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_and_killed_goes_on(tmp_path, capsys):
    rates = ["0.1", "0.1", "1e30", "0.1", "0.1", "0.1"]
    points = [tmp_path / f"seed={seed},optimizer.learning_rate={rate}" for seed, rate in enumerate(rates)]
    bad, good = points[2], points[:2] + points[3:]
    axes = ["--axis", "seed=0,1,2,3,4,5", f"--axis=optimizer.learning_rate={','.join(rates)}", "--combine=zip"]
    command = ["sweep", *TINY, *axes, "--jobs=2", f"--workdir={tmp_path}"]

    process = start(command)
    wait_until(lambda: len(outcomes(good)) >= 1 and any(map(at_work, good)), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=DEADLINE)
    assert (process.returncode, error) == (130, "interrupted: run the same command again to go on\n")
    # They were waited for.
    assert not any(map(at_work, points))
    assert not (tmp_path / "results.json").exists()
    after_interrupt = outcomes(good)
    assert 1 <= len(after_interrupt) < 5

    process = start(command)
    wait_until(lambda: len(outcomes(good)) > len(after_interrupt) and any(map(at_work, good)), process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=DEADLINE)
    wait_until(lambda: not any(map(at_work, points)))
    assert not (tmp_path / "results.json").exists()
    after_kill = outcomes(good)
    assert after_interrupt.items() <= after_kill.items()
    assert len(after_kill) < 5

    assert main(command) == 2
    said = capsys.readouterr()
    assert outcomes(good).keys() == set(good)
    assert after_kill.items() <= outcomes(good).items()
    for point in good:
        steps = [json.loads(line)["step"] for line in (point / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert steps[-1] == 8

    results = json.loads((tmp_path / "results.json").read_text())
    errors = [json.loads((point / "result.json").read_text())["test_error"] for point in good]
    (row,) = results["rows"]
    assert row["point"] == {"optimizer.learning_rate": "0.1"}
    np.testing.assert_allclose(row["errors"], errors)
    np.testing.assert_allclose([row["mean"], row["std"]], [np.mean(errors), np.std(errors, ddof=1)])
    assert f"{100 * row['mean']:.2f} ± {100 * row['std']:.2f}" in said.out
    assert [point["state"] for point in results["points"]] == ["complete"] * 2 + ["failed"] + ["complete"] * 3
    failed = results["points"][2]
    assert failed["log"] == str(bad / "log.txt")
    assert failed["message"].startswith("the state of iteration 4 holds numbers that are not finite")
    assert f"{bad.name}: failed: {failed['message']} ({failed['log']})" in said.out
    # One that began, and one that ended as the last one.
    assert any(line.endswith(": running") for line in said.out.splitlines())
    assert re.search(r"(complete, test error \S+|failed: .*); 0 left, about 0:00:00\n", said.out)
    assert said.err == (
        f"error: 1 of 6 points failed: read {bad / 'log.txt'}; the same command runs them again and no others\n"
    )

    before = (bad / "log.txt").read_text().count("$ resnet-jax train")
    assert main(command) == 2
    assert outcomes(good).items() >= after_kill.items()
    assert (bad / "log.txt").read_text().count("$ resnet-jax train") == before + 1


@pytest.mark.slow
def test_a_search_goes_on_and_looks_at_validation_images_only(tmp_path, capsys):
    command = [
        *("sweep", *TINY, "--config.dataset.validation_images=100", "--searcher=optuna", f"--workdir={tmp_path}"),
        "--axis=seed=0..1000",
    ]
    assert main([*command, "--trials=1"]) == 0
    (first,) = tmp_path.glob("seed=*")
    before = outcomes([first])
    assert main([*command, "--trials=2"]) == 0
    points = list(tmp_path.glob("seed=*"))
    assert len(points) == 2
    assert before.items() <= outcomes(points).items()
    results = json.loads((tmp_path / "results.json").read_text())
    errors = []
    for point in points:
        last = json.loads((point / "metrics.jsonl").read_text().splitlines()[-1])
        errors.append(last["validation_error"])
        assert "test_error" in json.loads((point / "result.json").read_text())
    # That the seed is searched makes one row of its points; the errors are in the order of the trials.
    (row,) = results["rows"]
    assert sorted(row["errors"]) == sorted(errors)
    assert {each["split"] for each in (row, *results["points"])} == {"validation"}
    assert "validation error, mean ± std (%)" in capsys.readouterr().out


# A SLURM of one machine that runs the tasks of its jobs one after another.
SLURM = {
    "sbatch": """#!/bin/bash
cp "$1" "$SLURM_HERE/$(ls "$SLURM_HERE" | wc -l).sh"
export SLURM_JOB_ID=$(ls "$SLURM_HERE" | wc -l)
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
script=$SLURM_HERE/$((SLURM_JOB_ID - 1)).sh
if [ -n "$last" ]; then
  export SLURM_ARRAY_JOB_ID=$SLURM_JOB_ID
  (for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "$script"; done) > /dev/null 2>&1 &
else
  bash "$script" > /dev/null 2>&1 &
fi
echo "Submitted batch job $SLURM_JOB_ID"
""",
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Puts sbatch and its friends on the path; gives the folder of the submitted scripts."""
    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    jobs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_HERE", str(jobs))
    return jobs


@pytest.mark.slow
def test_slurm_runs_points_as_an_array(slurm, tmp_path, capsys):
    directory = tmp_path / "sweep"
    axes = ["--axis=seed=0,1", "--axis=optimizer.learning_rate=0.1,1e30", "--combine=zip"]
    options = ["--launcher=slurm", "--slurm=partition=gpu,time=60", "--slurm=gpus=1", "--jobs=2"]
    command = ["sweep", *TINY, *axes, *options, f"--workdir={directory}"]
    process = start(command)
    wait_until(lambda: (directory / "slurm.json").exists(), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 130

    # The jobs have gone on, and are not submitted again.
    assert main(command) == 2
    said = capsys.readouterr()
    (script,) = [path.read_text() for path in slurm.iterdir()]
    for option in ("--array=0-1%2", "--partition=gpu", "--time=60", "--gpus=1"):
        assert f"#SBATCH {option}\n" in script
    good, bad = (directory / f"seed={i},optimizer.learning_rate={rate}" for i, rate in enumerate(("0.1", "1e30")))
    assert f"1 of 2 points failed: read {bad / 'log.txt'}" in said.err
    assert f"{bad.name}: failed: the state of iteration 4 holds numbers that are not finite" in said.out
    complete = outcomes([good])
    assert len(complete) == 1

    # What failed is submitted again, alone.
    assert main(command) == 2
    assert len(list(slurm.iterdir())) == 2
    assert outcomes([good]) == complete
    assert (bad / "log.txt").read_text().count("$ resnet-jax train") == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm=time=60"], "found no sbatch"),
        (["--slurm=partition"], "is not of the form NAME=VALUE"),
        ([], "--slurm=time=MINUTES is missing"),
        (["--slurm=time=1-00:00:00"], "--slurm=time=MINUTES is missing"),
    ],
)
def test_slurm_options_that_are_refused(options, message, slurm, tmp_path, capsys, monkeypatch):
    if "sbatch" in message:
        monkeypatch.setenv("PATH", "/nowhere")
    command = ["sweep", *TINY, "--axis=seed=0", "--launcher=slurm", *options, f"--workdir={tmp_path / 'sweep'}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_sbatch_refuses_is_said_in_one_line(slurm, tmp_path, capsys):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: no such partition' >&2\nexit 1\n")
    command = ["sweep", *TINY, "--axis=seed=0,1", "--launcher=slurm", "--slurm=time=9", f"--workdir={tmp_path / 'new'}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error == "error: sbatch refused the points: sbatch: error: no such partition\n"


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("submitit", ["--launcher=slurm"], "pip install 'deep-residual-jax[slurm]'"),
        (
            "optuna",
            ["--searcher=optuna", "--trials=1", "--config.dataset.validation_images=9"],
            "pip install 'deep-residual-jax[search]'",
        ),
    ],
)
def test_what_is_not_installed_is_named(module, options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["sweep", *TINY, "--axis=seed=0", *options, f"--workdir={tmp_path / 'sweep'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_lock_that_is_lost_ends_a_sweep_and_a_bucket_that_does_not_answer_does_not():
    def check(cause):
        error = InputError("another one is at work")
        error.__cause__ = cause
        raise error

    plan._still_locked(lambda: check(OSError(errno.EIO, "it does not answer")))
    with pytest.raises(InputError, match="another one is at work"):
        plan._still_locked(lambda: check(None))
