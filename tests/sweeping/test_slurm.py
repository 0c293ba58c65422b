import os
import signal
import threading
import time

import pytest

from resnet_jax.errors import InputError
from resnet_jax.sweeping.slurm import PointTask, sbatch_parameters


def test_parameters_are_submitits_or_sbatchs():
    assert sbatch_parameters(["partition=gpu", "time=60", "cpus-per-task=4", "exclusive=true", "gpus=1"]) == {
        "partition": "gpu",
        "time": 60,
        "cpus_per_task": 4,
        "exclusive": True,
        "additional_parameters": {"gpus": 1},
    }


@pytest.mark.parametrize("parameters", [[], ["partition=gpu"], ["time=1-00:00:00"]])
def test_a_time_limit_in_minutes_is_wanted(parameters):
    with pytest.raises(InputError, match="time=MINUTES is missing"):
        sbatch_parameters(parameters)


@pytest.mark.slow
def test_a_task_at_its_time_limit_stops_its_process_and_is_queued_again(tmp_path):
    log, config = tmp_path / "log.txt", tmp_path / "config.py"
    config.write_text("import time\nprint('reading', flush=True)\ntime.sleep(600)\n")
    task, again = PointTask(["train", f"--config={config}"], str(log)), []

    def tell_when_it_reads():
        deadline = time.monotonic() + 60
        while not (log.exists() and "reading" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)

    previous = signal.signal(signal.SIGUSR2, lambda signum, frame: again.append(task.checkpoint()))
    teller = threading.Thread(target=tell_when_it_reads)
    try:
        teller.start()
        with pytest.raises(RuntimeError, match="SIGTERM"):
            task()
    finally:
        teller.join()
        signal.signal(signal.SIGUSR2, previous)
    (submission,) = again
    assert isinstance(submission.function, PointTask)
    assert vars(submission.function) == {"_command": task._command, "_log": str(log), "_process": None}
