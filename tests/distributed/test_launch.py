"""The files in experiments/launch start what they say, and go on after the exit statuses that allow it."""

import math
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from resnet_jax.cli import commands
from resnet_jax.distributed import launch
from resnet_jax.errors import STOPPED
from resnet_jax.runs import checks, loop

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"
SHELL = sorted([*LAUNCH.glob("*.sbatch"), *LAUNCH.glob("*.sh")])
JOBSETS = sorted(LAUNCH.glob("*.yaml"))

# Writes its arguments to $LOG, one to a line, and ends with the next status of $STATUSES, by default 0.
FAKE = """#!/usr/bin/env bash
{{ echo "{name}"; printf '%s\\n' "$@"; echo; }} >>"$LOG"
if [[ {name} == srun || {name} == resnet-jax ]]; then
  read -r status rest <"$STATUSES" || true
  echo "${{rest:-}}" >"$STATUSES"
  exit "${{status:-0}}"
fi
{more}
"""


@pytest.fixture
def machine(tmp_path):
    """Runs a script of experiments/launch where the programs that it calls only note how they were called."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    places = [programs / name for name in ("srun", "scontrol", "gcloud", "pgrep", "pkill", "sleep")]
    places.append(home / ".venv-resnet-jax" / "bin" / "resnet-jax")
    more = {
        # Runs what would run on a host.
        "gcloud": 'for each; do [[ $each == --command=* ]] && cd "$HOME" && exec bash -c "${each#--command=}"; done',
        "pgrep": "exit 1",
        "sleep": "exit 0",
    }
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(FAKE.format(name=place.name, more=more.get(place.name, "")))
        place.chmod(0o755)

    def run(script, *arguments, statuses=(), **variables):
        log, coming = tmp_path / "log", tmp_path / "statuses"
        log.write_text("")
        coming.write_text(" ".join(map(str, statuses)) + "\n")
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(home),
            "LOG": str(log),
            "STATUSES": str(coming),
            "DATA": "/data",
            "RUNS": "/runs",
            **variables,
        }
        done = subprocess.run(["bash", LAUNCH / script, *arguments], env=environment, capture_output=True, text=True)
        calls = [call.splitlines() for call in log.read_text().split("\n\n") if call]
        return done, calls

    return run


def multinode(machine, *arguments, restarts=0, **others):
    variables = {"SLURM_JOB_ID": "123", "SLURM_CPUS_PER_TASK": "12", "SLURM_RESTART_COUNT": str(restarts)}
    return machine("slurm_multinode.sbatch", *arguments, **variables, **others)


def array(machine, task, *arguments, **others):
    variables = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_JOB_ID": "79", "SLURM_ARRAY_TASK_ID": str(task)}
    return machine("slurm_array.sbatch", *arguments, **variables, SLURM_CPUS_PER_TASK="8", **others)


@pytest.fixture
def train(monkeypatch):
    """Gives the arguments of `resnet-jax train` to the command itself; returns what it would train."""

    def read(words):
        command, what, *arguments = words
        assert (Path(command).name, what) == ("resnet-jax", "train")
        started = {}
        monkeypatch.setattr(loop, "train", lambda config, workdir: started.update(config=config, workdir=workdir))
        monkeypatch.setattr(launch, "start_processes", lambda *given, **named: started.update(processes=given))
        commands.train(arguments)
        checks.check(started["config"])
        return started

    return read


def program(call):
    """The command line that srun was to start."""
    return call[call.index("resnet-jax") :]


def test_there_is_a_file_for_each_kind_of_machine():
    assert [path.name for path in SHELL] == ["slurm_array.sbatch", "slurm_multinode.sbatch", "tpu_pod.sh"]
    assert [path.name for path in JOBSETS] == ["gke_gpu_jobset.yaml", "gke_tpu_jobset.yaml"]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_files_can_be_parsed_and_run(path):
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", SHELL[:2], ids=lambda path: path.name)
def test_slurm_reads_every_option(path):
    """SLURM stops reading options at the first line that is neither empty nor a comment."""
    lines = path.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.removeprefix("#SBATCH ") for line in lines[:first_command] if line.startswith("#SBATCH ")]
    assert sum(line.startswith("#SBATCH") for line in lines) == len(options)
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)
    assert not [option for option in options if "gpu-bind" in option or "gpus-per-task" in option]


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, 0), (2, 0, 0), (1, 0, 0), (75, 0, 1), (76, 0, 1), (137, 3, 1), (75, 20, 1), (76, 20, 0), (137, 20, 0)],
)
def test_multinode_jobs_go_back_into_the_queue(machine, status, restarts, requeued):
    # The first start calls the doctor, with status 0.
    statuses = [status] if restarts else [0, status]
    done, calls = multinode(machine, statuses=statuses, restarts=restarts)
    assert [call[0] for call in calls] == ["srun"] * len(statuses) + ["scontrol"] * requeued
    assert calls[-1][1:] == ["requeue", "123"] if requeued else calls[-1][0] == "srun"
    assert done.returncode == (0 if requeued else status)
    assert ["doctor" in call for call in calls if call[0] == "srun"] == ([False] if restarts else [True, False])


def test_multinode_jobs_end_where_the_doctor_finds_a_fault(machine):
    done, calls = multinode(machine, statuses=[2])
    assert done.returncode == 2
    (call,) = calls
    assert program(call) == ["resnet-jax", "doctor", "--workdir=/runs/resnet50-90ep", "--distributed=slurm"]


def test_a_job_that_cannot_be_requeued_fails(machine, tmp_path):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    done, _ = multinode(machine, statuses=[75], restarts=1)
    assert done.returncode == 75


def test_multinode_jobs_train(machine, train):
    _, calls = multinode(machine, "--config.train.grad_accum_steps=2", "--config.model.depth=101", restarts=1)
    started = train(program(calls[0]))
    assert started["processes"][0] == "slurm"
    assert started["workdir"] == Path("/runs/resnet50-90ep")
    assert (started["config"].model.depth, started["config"].train.grad_accum_steps) == (101, 2)
    assert (started["config"].train.batch_size, started["config"].dataset.data_dir) == (8192, "/data")


def test_array_jobs_are_the_points_of_a_sweep(machine, train):
    points = []
    for task in range(9):
        done, calls = array(machine, task, "--config.train.iterations=5")
        assert done.returncode == 0
        started = train(program(calls[0]))
        config = started["config"]
        assert started["workdir"] == Path(f"/runs/model.depth={config.model.depth},seed={config.seed}")
        assert config.train.iterations == 5
        points.append((config.model.depth, config.seed))
    assert points == [(depth, seed) for depth in (20, 32, 44) for seed in (0, 1, 2)]
    done, calls = array(machine, 9)
    assert (done.returncode, calls) == (2, [])
    assert "--array=0-8" in done.stderr


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (75, True), (76, True)])
def test_array_jobs_requeue_their_own_task(machine, status, requeued):
    done, calls = array(machine, 4, statuses=[status])
    assert calls[1:] == ([["scontrol", "requeue", "77_4"]] if requeued else [])
    assert done.returncode == (0 if requeued else status)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_pod_goes_on_after_a_lost_host_only(machine, train, tmp_path):
    log = tmp_path / "home" / "resnet-jax.log"
    done, _ = machine("tpu_pod.sh", "train", "--config.model.depth=18", TPU="pod", ZONE="z", statuses=[76, 75])
    assert done.returncode == 0, done.stderr
    # The script ends before the training does.
    wait_for(lambda: log.exists() and "exit status 75" in log.read_text())
    calls = [call.splitlines() for call in (tmp_path / "log").read_text().split("\n\n") if call]
    assert [call[0] for call in calls] == ["gcloud", "pgrep", "resnet-jax", "sleep", "resnet-jax"]
    assert calls[2] == calls[4]
    assert {"pod", "--zone=z", "--worker=all"} <= set(calls[0])
    started = train(calls[2])
    assert started["processes"][0] == "tpu"
    assert (started["config"].model.depth, started["config"].train.batch_size) == (18, 2048)
    assert started["config"].optimizer.learning_rate == pytest.approx(0.8)


def test_a_pod_that_loses_hosts_again_and_again_is_given_up(machine, tmp_path):
    log = tmp_path / "home" / "resnet-jax.log"
    machine("tpu_pod.sh", "train", TPU="pod", ZONE="z", statuses=[76] * 30)
    wait_for(lambda: log.exists() and "exit status 76" in log.read_text())
    assert (tmp_path / "log").read_text().count("resnet-jax\ntrain") == 20


def test_a_pod_that_is_stopped_between_two_starts_stays_so(machine, tmp_path):
    log, home = tmp_path / "home" / "resnet-jax.log", tmp_path / "home"
    (tmp_path / "bin" / "sleep").write_text(f"#!/bin/sh\ntouch {home}/resnet-jax.stop\n")
    # A file of an earlier stop is none of this start's.
    (home / "resnet-jax.stop").touch()
    machine("tpu_pod.sh", "train", TPU="pod", ZONE="z", statuses=[76, 0])
    wait_for(lambda: log.exists() and "exit status 76" in log.read_text())
    assert (tmp_path / "log").read_text().count("resnet-jax\ntrain") == 1


@pytest.mark.parametrize("folder", ["", "nets/resnet_jax"])
def test_hosts_of_a_pod_get_the_whole_project(machine, tmp_path, folder):
    repository, bin = tmp_path / "repository", tmp_path / "bin"
    project = repository / folder
    for name in ("setup.cfg", "src/resnet_jax/cli/main.py", "experiments/launch/tpu_pod.sh"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text((LAUNCH.parent.parent / name).read_text())
    (project / "uncommitted").touch()
    git = ["git", "-C", repository, "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "--quiet"], ["add", "*.cfg", "*.py", "*.sh"], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *words], check=True)
    copy = 'cp "$5" "$HOME/resnet_jax.tar.gz"; exit'
    gcloud = bin / "gcloud"
    gcloud.write_text(gcloud.read_text().replace("\nfor each", f"\nif [[ $4 == scp ]]; then {copy}; fi\nfor each"))
    for place in (bin / "sudo", bin / "python3.11", tmp_path / "home" / ".venv-resnet-jax" / "bin" / "pip"):
        place.write_text("#!/bin/sh\nexit 0\n")
        place.chmod(0o755)
    done, _ = machine(project / "experiments" / "launch" / "tpu_pod.sh", "install", TPU="pod", ZONE="z")
    assert done.returncode == 0, done.stderr
    found = tmp_path / "home" / "resnet_jax"
    files = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert files == {"setup.cfg", "src/resnet_jax/cli/main.py", "experiments/launch/tpu_pod.sh"}


def test_the_other_words_of_a_pod(machine, tmp_path):
    done, calls = machine("tpu_pod.sh", "doctor", TPU="pod", ZONE="z")
    assert calls[1] == ["resnet-jax", "doctor", "--workdir=/runs/resnet50-90ep", "--distributed=tpu"]
    done, calls = machine("tpu_pod.sh", "stop", TPU="pod", ZONE="z")
    assert calls[1] == ["pkill", "-TERM", "-x", "-o", "resnet-jax"]
    assert (tmp_path / "home" / "resnet-jax.stop").exists()
    for words in ([], ["trian"]):
        done, calls = machine("tpu_pod.sh", *words, TPU="pod", ZONE="z")
        assert (done.returncode, calls) == (2, [])
        assert "usage" in done.stderr


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.name)
def test_jobsets(path, train):
    (jobset,) = yaml.safe_load_all(path.read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["parallelism"] == job["completions"]

    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            actions |= dict.fromkeys(rule["onExitCodes"]["values"], rule["action"])
    # A run that saved goes on, and one that was refused does not.
    assert actions == {STOPPED: "Ignore", 2: "FailJob"}

    command = [word.replace("$(PROCESS_ID)", "1") for word in container["command"]]
    started = train(command)
    how, *numbers = started["processes"]
    if "gpu" in path.name:
        host = f"{jobset['metadata']['name']}-{replicated['name']}-0-0.{jobset['metadata']['name']}"
        assert (how, *numbers) == (f"{host}:9876", job["completions"], 1)
    else:
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        chips = math.prod(int(side) for side in topology.split("x"))
        assert chips == job["completions"] * container["resources"]["limits"]["google.com/tpu"]
        assert how == "gke"
    # What is written outside of it is lost with the pod.
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    assert mounts["/shared"] in claims
    assert started["workdir"].is_relative_to("/shared")
    assert Path(started["config"].dataset.data_dir).is_relative_to("/shared")


def test_the_documentation_names_the_files_and_commands_that_there_are(train):
    text = (LAUNCH.parent.parent / "docs" / "launching.md").read_text()
    for path in (*SHELL, *JOBSETS):
        assert path.name in text
    lines = text.replace("\\\n", " ").splitlines()
    shown = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("resnet-jax ")]
    assert {words[1] for words in shown} <= set(commands.COMMANDS)
    trained = [train(words) for words in shown if words[1] == "train"]
    assert trained
