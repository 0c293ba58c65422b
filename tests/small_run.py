"""A run of seconds, and what a finished one left behind."""

import json

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from resnet_jax.configs import digits
from resnet_jax.files import is_remote
from resnet_jax.runs import build, loop
from resnet_jax.runs.inputs import open_input
from resnet_jax.runs.tasks import classification

FIELDS = {
    "model.depth": 8,
    "mesh.data": 1,
    "train.batch_size": 16,
    "train.iterations": 60,
    "train.log_every": 10,
    "train.eval_every": 20,
    "train.checkpoint_every": 20,
}
# In less than half of that.
OF_20 = {"train.iterations": 20, "train.eval_every": 20, "train.checkpoint_every": 10}
TIMINGS = ("seconds", "images_per_second", "training_seconds", "environment")


def small_config(fields=None):
    """60 iterations of the digits config with 8 layers, on one device."""
    config = digits.get_config()
    config.update_from_flattened_dict(FIELDS | (fields or {}))
    return config


def saved_steps(directory):
    """The steps whose checkpoints are complete."""
    found = [path for path in (directory / "checkpoints").iterdir() if path.name.isdigit()]
    return sorted(int(path.name) for path in found if not is_remote(path) or (path / "commit_success.txt").exists())


def untimed(line):
    """A line or a result without its times and machine, all that may differ between two equal runs."""
    return {name: value for name, value in line.items() if name not in TIMINGS}


def lines_of(directory):
    """metrics.jsonl without times."""
    return [untimed(json.loads(line)) for line in (directory / "metrics.jsonl").read_bytes().splitlines()]


def result_of(directory):
    """result.json without times."""
    return untimed(json.loads((directory / "result.json").read_bytes()))


def everything_saved(directory):
    """All that the newest checkpoint holds, as NumPy arrays, whatever devices they were on, without our own loading."""
    path = directory / "checkpoints" / str(saved_steps(directory)[-1])
    parts = dict(ocp.checkpointables_metadata(path).metadata)
    assert {"variables", "training", "preprocessing", "card"} <= set(parts)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    del parts["card"]  # no arrays
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), parts)
    return jax.device_get(ocp.load_checkpointables(path, abstract | {"card": None}))


class KilledError(Exception):
    """Ends a run from inside."""


def parts(config):
    """The input of a config, its task, and the program of both."""
    mesh = build.mesh(config)
    images = open_input(config, mesh, print)
    task = classification(config, images.metadata, images.train_images, mesh)
    return images, task, images.compile(task)


def with_program(change):
    """An `open_input` for `loop.train`; `change` is given the program and returns another one."""

    def opener(*arguments):
        images = open_input(*arguments)
        compiled = images.compile
        images.compile = lambda task: change(compiled(task))
        return images

    return opener


def train_until(step, config, directory):
    """Ends a run without a word once it has reached a step."""

    def fragile(program):
        def run_steps(state, steps, stop):
            if int(state.step) >= step:
                raise KilledError
            return program.run_steps(state, steps, stop)

        return program._replace(run_steps=run_steps)

    try:
        loop.train(config, directory, open_input=with_program(fragile))
    except KilledError:
        return
    raise AssertionError(f"the run was complete before step {step}")


def assert_same_run(one, other):
    """The newest checkpoints are equal to the bit, and so are metrics and results."""
    ours, theirs = everything_saved(one), everything_saved(other)
    assert len(jax.tree.leaves(ours)) > 30
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert lines_of(one) == lines_of(other)
    assert result_of(one) == result_of(other)
