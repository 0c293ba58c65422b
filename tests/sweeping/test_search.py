from pathlib import Path

import pytest

from resnet_jax.errors import InputError
from resnet_jax.sweeping.points import parse_axes
from resnet_jax.sweeping.search import Search

AXES = parse_axes(["model.depth=8,14", "optimizer.learning_rate=0.01..1:log", "seed=0..9"])


def run_all(search, error=0.5):
    points = []
    while search.left:
        points.append(search.ask())
        search.tell(points[-1], error)
    return points


def test_points_are_of_the_axes(tmp_path):
    points = run_all(Search(AXES, 12, tmp_path, tmp_path))
    assert len(points) == 12
    assert {point["model.depth"] for point in points} <= {"8", "14"}
    assert all(0.01 <= float(point["optimizer.learning_rate"]) <= 1 for point in points)
    assert all(point["seed"] in set("0123456789") for point in points)


def test_it_proposes_where_errors_are_small(tmp_path):
    search = Search(parse_axes(["optimizer.learning_rate=0..1.0"]), 40, tmp_path, tmp_path)
    rates = []
    while search.left:
        point = search.ask()
        rates.append(float(point["optimizer.learning_rate"]))
        search.tell(point, abs(rates[-1] - 0.3))
    assert sum(abs(rate - 0.3) < 0.15 for rate in rates[20:]) > sum(abs(rate - 0.3) < 0.15 for rate in rates[:10])


def test_a_search_goes_on_with_its_study(tmp_path):
    search = Search(AXES, 4, tmp_path, tmp_path)
    complete, interrupted, failed = search.ask(), search.ask(), search.ask()
    search.tell(complete, 0.5)
    search.tell(failed, None)
    assert search.left == 1
    assert search.complete == [complete]

    again = Search(AXES, 4, tmp_path, tmp_path)
    assert again.left == 3
    points = run_all(again)
    assert points[:2] == [interrupted, failed]
    assert complete not in points
    assert again.complete == [complete, *points]
    assert Search(AXES, 4, tmp_path, tmp_path).left == 0
    assert Search(AXES, 6, tmp_path, tmp_path).left == 2


def test_a_point_that_failed_is_proposed_once_in_each_start(tmp_path):
    axes = parse_axes(["optimizer.learning_rate=0.01..1:log"])
    (failed,) = run_all(Search(axes, 1, tmp_path, tmp_path), None)
    for _ in range(2):
        assert run_all(Search(axes, 1, tmp_path, tmp_path), None) == [failed]
    first, second = run_all(Search(axes, 2, tmp_path, tmp_path))
    assert first == failed
    assert second != failed


def test_trials_of_one_point_share_its_error(tmp_path):
    search = Search(parse_axes(["model.depth=8"]), 3, tmp_path, tmp_path)
    points = [search.ask(), search.ask()]
    assert points[0] == points[1]
    search.tell(points[0], 0.25)
    assert Search(parse_axes(["model.depth=8"]), 3, tmp_path, tmp_path).left == 1


def test_other_axes_are_refused(tmp_path):
    run_all(Search(AXES, 1, tmp_path, tmp_path))
    with pytest.raises(InputError, match="holds a search over other axes"):
        Search(parse_axes(["model.depth=8,20"]), 1, tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%2Fb", "[x]", "日本 $x$"])
def test_a_study_lies_in_a_folder_of_any_name(name, tmp_path):
    (tmp_path / name).mkdir()
    Search({"seed": ["0"]}, 1, tmp_path / name, tmp_path)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [Path(name, "study.db")]
