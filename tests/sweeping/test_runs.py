import io
import json

import numpy as np
import pytest

from resnet_jax.sweeping.display import Display, results_table, seconds_left
from resnet_jax.sweeping.points import grid, parse_axes
from resnet_jax.sweeping.runs import Run, summarise
from resnet_jax.terminal import console as make_console


def make_run(directory, *, metrics=(), result=None, said=""):
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if result is not None:
        (directory / "result.json").write_text(json.dumps(result))
    run = Run({"seed": directory.name}, directory, iterations=20)
    run.log.write_text("$ resnet-jax train\nerror: of an earlier start\n")
    run.start_log()
    with run.log.open("a") as log:
        log.write("$ resnet-jax train\n" + said)
    return run


METRICS = [
    {"step": 10, "train_error": 0.5},
    {"step": 15, "train_error": 0.4, "validation_error": 0.3, "test_error": 0.1},
]


def test_progress_is_that_of_the_metrics_and_prefers_the_validation_error(tmp_path):
    run = make_run(tmp_path / "0", metrics=METRICS[:1])
    run.look()
    assert (run.iteration, run.split, run.error) == (10, "train", 0.5)
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(METRICS[1]) + "\n" + '{"step": 20, "train_er')
    run.look()
    assert (run.iteration, run.split, run.error) == (15, "validation", 0.3)


def test_a_complete_run_has_the_error_of_its_result(tmp_path):
    run = make_run(tmp_path / "0", metrics=METRICS, result={"step": 20, "split": "test", "test_error": 0.25})
    run.conclude("")
    assert (run.state, run.iteration, run.split, run.error) == ("complete", 20, "test", 0.25)


def test_a_search_never_sees_the_test_error(tmp_path):
    result = {"step": 20, "split": "test", "test_error": 0.25}
    run = make_run(tmp_path / "0", metrics=METRICS, result=result)
    run.conclude("", validation=True)
    assert (run.state, run.split, run.error) == ("complete", "validation", 0.3)
    run = make_run(tmp_path / "1", metrics=[{"step": 20, "test_error": 0.25}], result=result)
    run.conclude("", validation=True)
    assert run.state == "failed"
    assert run.as_json()["error"] is None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("going on\nerror: the loss is nan\nbye\n", "the loss is nan"),
        ("Traceback:\n  somewhere\nValueError: oh\n\n", "ValueError: oh"),
        ("", "it was killed"),
    ],
)
def test_a_failed_run_says_why_in_one_line(said, message, tmp_path):
    run = make_run(tmp_path / "0", said=said)
    run.conclude("it was killed")
    assert (run.state, run.message) == ("failed", message)
    assert run.as_json() == {
        "point": {"seed": "0"},
        "state": "failed",
        "split": None,
        "error": None,
        "message": message,
        "log": str(run.log),
    }


def complete(axes, errors, directory):
    points = grid(parse_axes(axes), "product")
    return [
        Run(point, directory, 20, state="complete", split="test", error=error)
        for point, error in zip(points, errors, strict=True)
    ]


def test_mean_and_standard_deviation_are_numpys_over_complete_runs(tmp_path):
    errors = np.random.default_rng(0).random((2, 5))
    runs = complete(["model.depth=8,14", "seed=0,1,2,3,4"], errors.ravel().tolist(), tmp_path)
    failed = Run({"model.depth": "8", "seed": "5"}, tmp_path, 20, state="failed", split="train", error=0.5)
    rows = summarise([*runs, failed])
    assert [row["point"] for row in rows] == [{"model.depth": "8"}, {"model.depth": "14"}]
    np.testing.assert_allclose([row["mean"] for row in rows], errors.mean(1))
    np.testing.assert_allclose([row["std"] for row in rows], errors.std(1, ddof=1))
    table = results_table(rows, "")
    assert list(table.columns[1].cells) == ["5", "5"]
    expected = [f"{100 * row.mean():.2f} ± {100 * row.std(ddof=1):.2f}" for row in errors]
    assert list(table.columns[2].cells) == expected


def test_one_seed_has_no_spread(tmp_path):
    (row,) = summarise(complete(["model.depth=8"], [0.25], tmp_path))
    assert (row["mean"], row["std"]) == (0.25, None)
    assert list(results_table([row], "").columns[2].cells) == ["25.00"]


def cells(table):
    return list(zip(*(column.cells for column in table.columns), strict=True))


def show_states(console, tmp_path, now):
    runs = [
        make_run(tmp_path / name, metrics=METRICS[:1], said="error: [nan]\n")
        for name in ("waiting", "running", "complete", "failed")
    ]
    runs[0].state = "waiting"
    display = Display(console, runs, 4, clock=lambda: now[0])
    with display:
        runs[2].state, runs[2].iteration, runs[2].split, runs[2].error = "complete", 20, "test", 0.25
        runs[3].conclude("")
        now[0] = 30.0
        display.update()
        return display.table(), runs


def test_the_live_table_has_a_row_for_each_point(tmp_path):
    console = make_console(io.StringIO(), force_terminal=True, width=200, height=40)
    table, runs = show_states(console, tmp_path, [0.0])
    failure = f"[nan] ({runs[3].log})"
    assert cells(table) == [
        ("seed=waiting", "waiting", "10/20", "50.00 (train)", ""),
        ("seed=running", "running", "10/20", "50.00 (train)", ""),
        ("seed=complete", "complete", "20/20", "25.00 (test)", ""),
        ("seed=failed", "failed", "10/20", "50.00 (train)", failure),
    ]
    # Half of each point lay behind at the start; one point's worth in 30 seconds, and another one's worth is left.
    assert table.caption == "1 complete, 1 running, 1 failed, of 4 points, about 0:00:30 left"
    assert "[nan]" in console.file.getvalue()


def test_a_long_live_table_shows_what_is_at_work_or_failed(tmp_path):
    console = make_console(io.StringIO(), force_terminal=True, width=200, height=10)
    table, _ = show_states(console, tmp_path, [0.0])
    assert [row[0] for row in cells(table)] == ["seed=running", "seed=failed"]


def test_elsewhere_there_is_one_line_for_each_change(tmp_path):
    console = make_console(io.StringIO())
    _, runs = show_states(console, tmp_path, [0.0])
    assert console.file.getvalue().splitlines() == [
        "seed=running: running",
        "seed=complete: complete after 20 iterations, test error 25.00%",
        f"seed=failed: failed: [nan] ({runs[3].log})",
    ]


def test_the_time_that_is_left():
    assert seconds_left(10.0, 1.0, 1.0, 6) is None
    assert seconds_left(10.0, 1.0, 2.0, 6) == 40.0
    assert seconds_left(10.0, 1.0, 6.0, 6) == 0.0
