"""The process of one point: python -m resnet_jax.sweeping.child COMMAND … is resnet-jax COMMAND …, and ends when the
process that started it has ended, however that ended.
"""

import os
import runpy
import signal
import threading


def _end_with_the_parent() -> None:
    # Nothing is ever written to this pipe: reading returns when its other end is gone. A parent's death as a signal
    # exists on Linux only, and has to be set between fork and exec, where Python with threads is not safe.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # SLURM can send the signal that announces a time limit to every process of a job; `slurm.PointTask` acts on it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    runpy.run_module("resnet_jax.cli.main", run_name="__main__", alter_sys=True)
