import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.errors import InputError
from resnet_jax.sweep import points, summarise, table

# ml_collections loads config files in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

TINY = [
    "--config=digits",
    "--config.train.iterations=20",
    "--config.train.batch_size=16",
    "--config.train.log_every=10",
    "--config.train.checkpoint_every=10",
]


def test_points_are_the_product_of_the_axes():
    assert points(["model.depth=20,32", "seed=0,1,2"]) == [
        {"model.depth": depth, "seed": seed} for depth in ("20", "32") for seed in ("0", "1", "2")
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([], "at least one --axis"),
        (["seed"], "is not of the form"),
        (["seed="], "is not of the form"),
        (["seed=1,,2"], "is not of the form"),
        (["=1"], "is not of the form"),
        (["seed=1", "seed=2"], "the axis seed is given twice"),
    ],
)
def test_axes_that_are_none(axes, message):
    with pytest.raises(InputError, match=message):
        points(axes)


def test_mean_and_standard_deviation_are_numpys():
    errors = np.random.default_rng(0).random((2, 5))
    grid = points(["model.depth=8,14", "seed=0,1,2,3,4"])
    rows = summarise(grid, [{"test_error": error} for error in errors.ravel().tolist()])
    assert [row["point"] for row in rows] == [{"model.depth": "8"}, {"model.depth": "14"}]
    np.testing.assert_allclose([row["mean"] for row in rows], errors.mean(1))
    np.testing.assert_allclose([row["std"] for row in rows], errors.std(1, ddof=1))
    assert list(table(rows).columns[1].cells) == ["5", "5"]
    expected = [f"{100 * row.mean():.2f} ± {100 * row.std(ddof=1):.2f}" for row in errors]
    assert list(table(rows).columns[2].cells) == expected


def test_one_seed_has_no_spread():
    (row,) = summarise(points(["model.depth=8"]), [{"test_error": 0.25}])
    assert (row["mean"], row["std"]) == (0.25, None)
    assert list(table([row]).columns[2].cells) == ["25.00"]


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("model.dept=8", 'Did you mean "depth"'),
        ("model.depth=8,deep", "depth=deep"),
        ("model.depth=8,9", "the nearest depth is 8"),
        ("model.shortcut=A,D", "'D'"),
    ],
)
def test_a_wrong_point_is_refused_before_anything_trains(axis, message, tmp_path, capsys):
    assert cli.main(["sweep", *TINY, f"--axis={axis}", f"--workdir={tmp_path / 'sweep'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.subprocess
def test_a_sweep_that_was_killed_goes_on(tmp_path, capsys):
    directory = tmp_path / "sweep"
    command = ["sweep", *TINY, "--axis=model.depth=8,14", "--axis", "seed=0,1", f"--workdir={directory}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_jax.cli", *command],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = directory / "model.depth=8,seed=0"
    deadline = time.monotonic() + 200
    while not (first / "result.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (directory / "results.json").exists()
    complete = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.rglob("*") if path.is_file()}

    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"{first} is complete after 20 iterations" in said
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in complete} == complete
    errors = []
    for depth in (8, 14):
        for seed in (0, 1):
            run = directory / f"model.depth={depth},seed={seed}"
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            assert [line["step"] for line in lines] == [10, 20]
            assert json.loads((run / "config.json").read_text())["model"]["depth"] == depth
            errors.append(json.loads((run / "result.json").read_text())["test_error"])
    assert len(list(directory.iterdir())) == 5
    errors = np.array(errors).reshape(2, 2)
    rows = json.loads((directory / "results.json").read_text())
    np.testing.assert_allclose([row["errors"] for row in rows], errors)
    np.testing.assert_allclose([row["mean"] for row in rows], errors.mean(1))
    np.testing.assert_allclose([row["std"] for row in rows], errors.std(1, ddof=1))
    assert f"{100 * errors[0].mean():.2f} ± {100 * errors[0].std(ddof=1):.2f}" in said
