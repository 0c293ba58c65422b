"""What the hosts of a run agree on about its photographs: their pixels, and how many of them are damaged."""

import json
import re
import shutil

import jax
import members
import numpy as np
import pytest
from members import Members

from resnet_jax.data import stream
from resnet_jax.distributed import agreement
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.runs import inputs, loop
from resnet_jax.training.state import create_state
from small_run import lines_of, parts

MESSAGES = {
    "mean image": (
        r"^the processes have different data: the checksum of the mean image is \d+ on process 0 and \d+ on process 1; "
        "use the same files for config.dataset.data_dir on every host$"
    ),
    "damaged": (
        r"^2 of 100 images are damaged, train/\S+ the last so far, and "
        "max_corrupt_fraction=0.015 allows no more: mend or remove them, or allow a larger one$"
    ),
}


@pytest.mark.slow
def test_two_processes_compare_mean_images_and_add_up_damaged_photographs(tmp_path):
    photographs = members.make_photographs(tmp_path / "photographs")
    damaged = shutil.copytree(photographs, tmp_path / "damaged")
    # The first one is in a row of process 0, and the other one in a row of process 1; neither comes twice in a run.
    batches = np.array([stream.batch_indices(0, step, 16, 100) for step in range(4)])
    members.spoil(damaged, batches[0, 3], batches[1, 12])
    script = (members.__file__, "unlike", str(tmp_path), str(photographs))
    with Members(tmp_path / "logs", 2, 1, script) as group:
        assert group.statuses() == [0, 0], group.errors()
    said = [json.loads((tmp_path / f"unlike{process}.json").read_text()) for process in range(2)]
    assert said[0] == said[1]
    assert list(said[0]) == list(MESSAGES)
    for name, pattern in MESSAGES.items():
        assert re.match(pattern, said[0][name]), said[0][name]
    # The first process alone speaks, of both.
    assert [output.count("is damaged: the next image takes its place") for output in group.outputs()] == [2, 0]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return members.make_photographs(tmp_path_factory.mktemp("photographs"))


def test_what_another_process_met_counts_here(photographs, monkeypatch):
    """As this process would see it: the other one answers with a photograph of its own each time."""
    said, others = [], iter([[4], [4, 9]])
    report = stream.DamageReport(members.open_images("folder", str(photographs)).train, 0.02, said.append)
    monkeypatch.setattr(agreement, "exchange", lambda own: [own, next(others)])
    inputs._report(report, [7])
    assert report.found == {4, 7}
    assert len(said) == 2
    with pytest.raises(InputError, match=r"^3 of 100 images are damaged"):
        inputs._report(report, [7])


CONFIG = members.CURVE | {"mesh.data": 1, "train.batch_size": 8}


@pytest.mark.slow
def test_any_state_is_trained_on_the_batches_of_its_own_step(photographs):
    """Two states in turn, and one from earlier once more: each as if it were alone."""
    images, task, program = parts(members.photograph_config(photographs, CONFIG))

    def fresh(step=0):
        state = create_state(task.model, task.optimizer, 0, images.metadata.image_shape, make_mesh(1))
        return state.replace(step=state.step + step)

    def losses(state, steps):
        state, metrics = program.run_steps(state, steps, lambda: False)
        return state, np.asarray(metrics["loss"].total).tolist()

    state, expected = losses(fresh(), 4)
    kept = jax.tree.map(lambda leaf: leaf.copy(), state)
    state, following = losses(state, 2)
    late = losses(fresh(11), 1)[1]
    assert losses(fresh(), 4)[1] == expected
    assert losses(kept, 2)[1] == following
    assert losses(fresh(11), 1)[1] == late
    images.close()
    assert len({*expected, *following, *late}) == 7


@pytest.mark.slow
def test_a_validation_split_without_a_whole_photograph_has_no_error(photographs, tmp_path):
    spoilt = shutil.copytree(photographs, tmp_path / "photographs")
    for path in (spoilt / "val").glob("*/*"):
        path.write_bytes(b"no image")
    config = members.photograph_config(spoilt, CONFIG | {"stream.max_corrupt_fraction": 1.0})
    images, task, program = parts(config)
    state = create_state(task.model, task.optimizer, 0, images.metadata.image_shape, make_mesh(1))
    with pytest.raises(InputError, match=r"^all of the 30 validation photographs are damaged"):
        program.evaluate(state, "validation", lambda: False)


@pytest.mark.slow
@pytest.mark.parametrize("scored", [1, 1000])
def test_photographs_one_at_a_time(photographs, tmp_path, scored):
    """Batches of one photograph, shown and scored one by one and all at once."""
    fields = {"train.batch_size": 1, "train.iterations": 3, "train.log_every": 1, "eval.batch_size": scored}
    result = loop.train(members.photograph_config(photographs, CONFIG | fields), tmp_path / "run").result
    assert (result["step"], result["validation_images"]) == (3, 30)
    assert np.isfinite(result["validation_loss"])
    # An error of one image is whole.
    assert {line["train_error"] for line in lines_of(tmp_path / "run")} <= {0, 1}
