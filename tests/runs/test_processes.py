"""Runs of several real processes: the same curves as one, the same end whatever happens to them, and clear refusals."""

import json
import re
import signal

import jax
import members
import numpy as np
import pytest
from members import Members, losses, reached, trained

from resnet_jax.runs import loop
from small_run import everything_saved, lines_of, result_of, saved_steps

pytestmark = pytest.mark.slow

SCRIPT = (members.__file__,)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return members.make_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def alone(photographs, tmp_path_factory):
    """The folder of all combinations trained by this process on one device."""
    root = tmp_path_factory.mktemp("alone")
    for name, config in members.combinations(photographs, {"mesh.data": 1}).items():
        loop.train(config, root / name)
    return root


@pytest.mark.parametrize(
    ("count", "devices", "names"),
    [
        # Each pipeline with each scope once: all of them on both would compile for minutes on two cores.
        (2, 2, ["digits", "digits in groups", "photographs in groups", "digits, cut"]),
        (4, 1, ["photographs"]),
    ],
)
def test_the_loss_curve_is_that_of_one_process(alone, photographs, tmp_path, count, devices, names):
    root = tmp_path / "runs"
    with Members(tmp_path / "logs", count, devices, SCRIPT, "curves", str(root), str(photographs), *names) as group:
        assert group.statuses() == [0] * count, group.errors()
    for name in names:
        run, other = root / name, alone / name.removesuffix(", cut")
        ours, theirs = losses(run), losses(other)
        assert list(ours) == list(theirs) == list(range(1, 21))
        np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-4, err_msg=name)
        # So close only because these are the same images in the same order.
        assert np.median(np.abs(np.diff([*theirs.values()]))) > 1e-2
        split = result_of(run)["split"]
        for step, loss in losses(run, f"{split}_loss").items():
            assert loss == pytest.approx(losses(other, f"{split}_loss")[step], rel=1e-3), (name, step)
        assert result_of(run)[f"{split}_images"] == {"test": 360, "validation": 30}[split]
        saved, expected = everything_saved(run), everything_saved(other)
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected["variables"]["params"]))
        for part in ("params", "batch_stats"):
            jax.tree.map(
                lambda ours, theirs, largest=largest: np.testing.assert_allclose(
                    ours, theirs, rtol=1e-3, atol=1e-3 * largest
                ),
                saved["variables"][part],
                expected["variables"][part],
            )
    if "digits, cut" in names:
        assert saved_steps(root / "digits, cut") == [10, 15, 20]
        # What one of them cannot read none of them goes on from.
        assert "checkpoint 15 is damaged and passed over: its arrays are not those" in group.outputs()[0]
        assert "going on from the checkpoint of iteration 10\n" in group.outputs()[0]
    # Process 0 alone speaks; and Gloo, whose threads cut each other's lines.
    words = ("multiply-adds", "iteration", "error", "checkpoint", "images")
    assert all(word in group.outputs()[0] for word in words)
    assert not [word for word in words for output in group.outputs()[1:] if word in output]


STOPPED = {
    "model.depth": 8,
    "train.batch_size": 16,
    # By default they follow the number of iterations.
    "optimizer.boundaries": (),
    "train.log_every": 2,
    "train.eval_every": 30,
    "train.checkpoint_every": 50,
}


def assert_stopped(group, directory):
    """All ended with the status of a stop, after the same step, which is saved and logged; returns it."""
    assert group.statuses() == [75] * len(group.processes), group.errors()
    step = reached(directory)
    assert saved_steps(directory)[-1] == step
    line = f"stopped: the state of iteration {step} is saved; run the same command again to go on"
    assert group.errors() == [[line]] * len(group.processes)
    return step


def test_a_signal_to_one_process_stops_all_and_loses_no_step(tmp_path):
    def start(directory, iterations):
        return trained(tmp_path / "logs", 2, 2, directory, "digits", STOPPED | {"train.iterations": iterations})

    with start(tmp_path / "whole", 60) as group:
        assert group.statuses() == [0, 0], group.errors()
    whole = lines_of(tmp_path / "whole")

    directory, steps = tmp_path / "run", [0]
    for number, processes in ((signal.SIGTERM, [1]), (signal.SIGINT, [0, 1])):
        # JAX needs a second or two to spread a notice: more iterations than fit into that anywhere.
        with start(directory, 20_000) as group:
            group.when(lambda: reached(directory) >= steps[-1] + 6)
            group.signal(number, *processes)
            steps.append(assert_stopped(group, directory))
        assert f"going on from the checkpoint of iteration {steps[-2]}" in group.outputs()[0] or steps[-2] == 0
    assert sorted(set(steps)) == steps
    # Every bit of the state is in the losses that follow.
    lines = lines_of(directory)
    assert [line["step"] for line in lines] == list(range(2, steps[-1] + 1, 2))
    both = min(len(lines), len(whole))
    assert 2 * both > steps[1] + 4
    assert lines[:both] == whole[:both]


LOST = r"error: another process of this run was lost.*[:;] run the same command again on every host"


def kill(group, directory, step, process):
    """Kills one of two processes once the step is logged and something is saved; the other must say so."""
    group.when(lambda: reached(directory) >= step and saved_steps(directory))
    group.signal(signal.SIGKILL, process)
    other = 1 - process
    assert group.processes[other].wait(90) == 76, group.errors()
    (line,) = group.errors()[other]
    assert re.match(LOST, line)
    assert not (directory / "result.json").exists()


def test_a_run_goes_on_with_other_processes_devices_and_workers_after_one_was_lost(photographs, tmp_path):
    fields = members.NETWORK | members.CURVE
    fields |= {
        "optimizer.learning_rate": 0.002,
        "train.iterations": 50,
        "dataset.data_dir": photographs,
        "eval.batch_size": 12,
    }
    directory, logs = tmp_path / "run", tmp_path / "logs"
    one = members.photograph_config(photographs, {**fields, "mesh.data": 1, "dataset.data_dir": str(photographs)})
    loop.train(one, tmp_path / "whole")

    with trained(logs, 2, 2, directory, "folder", fields) as group:
        kill(group, directory, 15, process=1)
    begin, reached_before = saved_steps(directory)[-1], reached(directory)
    assert begin >= 10
    with trained(logs, 2, 2, directory, "folder", fields | {"stream.num_workers": 1}) as group:
        kill(group, directory, reached_before + 5, process=0)
    assert f"going on from the checkpoint of iteration {begin}\n" in group.outputs()[0]
    other = fields | {"mesh.fsdp": 2, "stream.num_workers": 2, "model.remat": True}
    with trained(logs, 1, 4, directory, "folder", other) as group:
        assert group.statuses() == [0], group.errors()

    ours, theirs = losses(directory), losses(tmp_path / "whole")
    assert list(ours) == list(theirs) == list(range(1, 51))
    np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-3)
    assert np.median(np.abs(np.diff([*theirs.values()]))) > 1e-2


REFUSALS = {
    "configs": (
        r"different configs: config.optimizer.learning_rate is 0.1 on process 0 and 0.2 on process 1, "
        r"config.train.batch_size is 16 on process 0 and 32 on process 1; start all of them with the same command"
    ),
    # Loader workers may differ; what is wrong is something else.
    "own configs": r"^mesh.data=3 asks for 3 devices, but the 2 processes have 4",
    "workdirs": r"own[01] is not shared: process 0 does not see what process 1 writes there; use a workdir on a file",
    "unwritable": r"process 1 cannot write in .*: Not a directory",
    "mesh.data": r"^mesh.data=3 asks for 3 devices, but the 2 processes have 4",
    "mesh.data below": r"^mesh.data=1 asks for 1 devices, but the 2 processes have 4",
    "mesh.fsdp": r"^mesh.fsdp is 3, which does not divide the 4 devices",
    "both": r"^mesh.data=4 times mesh.fsdp=2 asks for 8 devices, but 4 are available",
    "batch": r"^config.train.batch_size=18 cannot be divided by 4 devices: use a size such as 16 or 20",
    "grad_accum_steps": (r"batch_size=16 cannot be divided by 4 devices times grad_accum_steps=3: .* such as 12 or 24"),
    "group": r"^config.model.bn_group_size=4 does not fit 2 images: use",
    "data": r"different data: .*the number of images to score is 360 on process 0 and 359 on process 1; use ",
    "pixels": r"different data: the checksum of the images to score is \d+ on process 0 and \d+ on process 1; use ",
}


def test_what_processes_cannot_train_is_refused_by_each_of_them(tmp_path):
    with Members(tmp_path / "logs", 2, 2, SCRIPT, "refused", str(tmp_path), "none") as group:
        assert group.statuses() == [0, 0], group.errors()
    for process in range(2):
        said = json.loads((tmp_path / f"refused{process}.json").read_text())
        assert list(said) == list(REFUSALS)
        for name, pattern in REFUSALS.items():
            assert re.search(pattern, said[name]), (name, said[name])
            assert "\n" not in said[name]
    assert not (tmp_path / "refused" / "config.json").exists()


ENDLESS = """
import sys
import jax, numpy as np
from resnet_jax.cli import commands, main
from resnet_jax.distributed import launch, mesh

def train(arguments):
    address, count, process = (each.partition("=")[2] for each in arguments)
    with launch.processes(address, int(count), int(process)):
        devices = mesh.make_mesh()
        add = jax.jit(lambda ones: ones.sum(), out_shardings=mesh.replicated(devices))
        for step in range(10_000_000):
            jax.device_get(add(mesh.put_batch(devices, np.ones(1))))
            if step == 100 and jax.process_index() == {faulty}:
                {fault}

commands.COMMANDS["train"] = train
sys.argv[0] = "resnet-jax"
sys.argv.insert(1, "train")
main.run()
"""


@pytest.mark.parametrize("faulty", [0, 1])
def test_an_error_that_nobody_foresaw_ends_all_processes_at_once(tmp_path, faulty):
    program = ENDLESS.format(faulty=faulty, fault="raise KeyError('a bug')")
    with Members(tmp_path / "logs", 2, 1, ("-c", program)) as group:
        assert group.statuses() == [1 if process == faulty else 76 for process in range(2)], group.errors()
    assert group.errors()[faulty] == ["Traceback (most recent call last):"]
    assert re.match(LOST, *group.errors()[1 - faulty])


def test_each_process_says_why_it_ends(tmp_path):
    def own(process):
        return [f"--config.train.batch_size={(16, 24)[process]}"]

    fields = {"model.depth": 8}
    with trained(tmp_path / "logs", 2, 1, tmp_path / "run", "digits", fields, own) as group:
        assert group.statuses() == [2, 2]
    for (line,) in group.errors():
        assert "config.train.batch_size is 16 on process 0 and 24 on process 1" in line
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
