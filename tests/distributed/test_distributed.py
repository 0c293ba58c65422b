"""Commands with which processes cannot find each other are refused before any of them waits."""

from resnet_jax.cli.main import main

WRONG = [
    (["--distributed=localhost:1234"], "needs --num_processes and --process_id: how many processes there are"),
    (["--distributed=localhost:1234", "--process_id=0"], "localhost:1234 needs --num_processes: how many"),
    (["--distributed=localhost:1234", "--num_processes=2"], "localhost:1234 needs --process_id: how many"),
    (["--distributed=localhost:1234", "--num_processes=2", "--process_id=2"], "--process_id is 2, but it must be"),
    (["--num_processes=2", "--process_id=0"], "--num_processes and --process_id go with --distributed=HOST:PORT"),
    (["--distributed=node1:port", "--num_processes=2", "--process_id=0"], "node1:port is no address"),
    (["--distributed=node1:"], "--distributed=node1: is no address: it must be HOST:PORT of process 0"),
    (["--distributed=node1"], "--distributed is 'node1', but it must be slurm, tpu, gke or HOST:PORT"),
    (
        ["--distributed=slurm"],
        "needs SLURM_STEP_NODELIST, SLURM_NTASKS, SLURM_PROCID, SLURM_LOCALID in the environment: start "
        "the command with srun",
    ),
    (["--distributed=slurm", "--num_processes=2"], "go with --distributed=HOST:PORT"),
    (["--distributed=tpu"], "--distributed=tpu needs libtpu: install the extra, .[tpu]"),
    (["--distributed=gke"], "--distributed=gke needs libtpu: install the extra, .[tpu]"),
]


def test_how_processes_cannot_find_each_other(tmp_path, monkeypatch, capsys):
    for variable in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    # As where it is not installed.
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    for arguments, message in WRONG:
        assert main(["train", "--config=digits", f"--workdir={tmp_path / 'run'}", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: "), arguments
        assert message in error, arguments
        assert error.count("\n") == 1, arguments
    assert not (tmp_path / "run").exists()
