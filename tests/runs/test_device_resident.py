"""A run on data that lie on the devices compiles each of its programs once, and sends nothing that it was not told to.

A CPU's arrays are memory of the host, so that JAX guards nothing there that goes from a device to the host: what is
asserted here of that direction holds on other devices alone. What goes to a device is guarded on all of them.
"""

import jax
import jax.numpy as jnp
import members
import numpy as np
import pytest

from compilations import compilations
from resnet_jax.configs import folder as folder_config
from resnet_jax.runs import build, loop
from resnet_jax.training.state import create_state
from small_run import parts, saved_steps, small_config, train_until, with_program

pytestmark = pytest.mark.slow

# Dispatches of 10 steps, and a last one of 5.
FIELDS = {"train.iterations": 45, "optimizer.boundaries": (22, 33)}


@pytest.fixture
def watched(monkeypatch):
    """Trains with guards from the first dispatch to the end of the run; `change` is given the program and returns
    another one. Returns the calls of the program, each with the programs that JAX compiled in it, and after it until
    the next one.
    """
    before = jax.config.jax_transfer_guard

    def train(config, directory, change=lambda program: program):
        calls = []

        def watch(program):
            changed = change(program)

            def noted(name, call):
                def called(*arguments):
                    jax.config.update("jax_transfer_guard", "disallow")
                    calls.append((name, names[:]))
                    del names[:]
                    result = jax.block_until_ready(call(*arguments))
                    calls.append((f"{name} done", names[:]))
                    del names[:]
                    return result

                return called

            return changed._replace(
                run_steps=noted("train", changed.run_steps), evaluate=noted("evaluate", changed.evaluate)
            )

        with compilations() as names:
            try:
                loop.train(config, directory, open_input=with_program(watch))
            finally:
                jax.config.update("jax_transfer_guard", before)
            return [*calls, ("end", names[:])]

    yield train
    jax.config.update("jax_transfer_guard", before)


def compiled_in(calls):
    return [name for _, names in calls for name in names]


STEPS, EVALUATION = "jit(train_steps)", "jit(evaluate)"


def test_each_program_is_compiled_once(watched, tmp_path):
    calls = watched(small_config(FIELDS), tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [20, 40, 45]
    starts = [i for i, (name, _) in enumerate(calls) if name == "train"]
    assert len(starts) == 5
    # No dispatch compiles: its program was made before, for its time is the training's.
    assert all(names == [] for name, names in calls if name == "train done")
    assert compiled_in(calls[: starts[0] + 1]).count(STEPS) == 1
    # The second interval ends with the first evaluation and the first checkpoint, the fourth with others.
    assert compiled_in(calls[starts[0] + 1 : starts[2] + 1]).count(EVALUATION) == 1
    assert compiled_in(calls[starts[2] + 1 : starts[4]]) == []
    assert compiled_in(calls[starts[4] :]) == [STEPS]


def test_a_run_that_goes_on_in_the_same_process_compiles_each_program_once(watched, tmp_path):
    """Also where the state that was read is scored before it is trained."""
    train_until(30, small_config(FIELDS), tmp_path / "run")

    def scored_first(program):
        first = []

        def run_steps(state, steps, stop):
            if not first:
                first.append(program.evaluate(state, "test", stop))
            return program.run_steps(state, steps, stop)

        return program._replace(run_steps=run_steps)

    calls = watched(small_config(FIELDS), tmp_path / "run", scored_first)
    assert [name for name, _ in calls].count("train") == 3
    found = compiled_in(calls)
    assert (found.count(STEPS), found.count(EVALUATION)) == (2, 1)
    # Hashes of checkpoints are programs of the process.
    starts = [i for i, (name, _) in enumerate(calls) if name == "train"]
    assert set(compiled_in(calls[starts[0] + 1 :])) == {STEPS, EVALUATION}


def test_a_streamed_run_compiles_each_program_once(watched, folder, tmp_path):
    """It sends each batch, as it says it does."""
    config = folder_config.get_config()
    fields = {"dataset.data_dir": str(folder), "mesh.data": 1, "train.batch_size": 8, "train.iterations": 7}
    every = {f"train.{what}_every": 3 for what in ("log", "eval", "checkpoint")}
    config.update_from_flattened_dict(members.NETWORK | fields | every)
    calls = watched(config, tmp_path / "run")
    assert [name for name, _ in calls].count("train") == [name for name, _ in calls].count("evaluate") == 3
    found = compiled_in(calls)
    assert (found.count(STEPS), found.count(EVALUATION)) == (1, 1)
    starts = [i for i, (name, _) in enumerate(calls) if name == "train"]
    assert compiled_in(calls[starts[1] + 1 :]) == []


def test_what_is_sent_to_a_device_unasked_ends_the_run(watched, tmp_path):
    def sends(program):
        def run_steps(state, steps, stop):
            jnp.asarray(np.ones(3, np.float32))
            return program.run_steps(state, steps, stop)

        return program._replace(run_steps=run_steps)

    with pytest.raises(Exception, match="Disallowed host-to-device"):
        watched(small_config(FIELDS), tmp_path / "run", sends)


def test_a_python_float_in_the_state_is_seen():
    """In an evaluation as another program, which the tests above would count; a dispatch refuses it."""
    config = small_config(FIELDS)
    images, task, program = parts(config)
    state = create_state(task.model, task.optimizer, 0, images.metadata.image_shape, build.mesh(config))
    weak = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(1.0), leaf.shape), state.batch_stats)
    with compilations() as names:
        for stats in (state.batch_stats, state.batch_stats, weak):
            program.evaluate(state.replace(batch_stats=stats), "test", lambda: False)
    assert names.count(EVALUATION) == 2
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.batch_stats)
    with pytest.raises(TypeError, match="bfloat16"):
        program.run_steps(state.replace(batch_stats=half), 10, lambda: False)
