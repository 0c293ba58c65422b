import pytest

from resnet_jax.errors import InputError
from resnet_jax.sweeping.points import Range, corners, grid, parse_axes, point_name


def test_points_are_the_product_of_the_axes():
    assert grid(parse_axes(["model.depth=20,32", "seed=0,1,2"]), "product") == [
        {"model.depth": depth, "seed": seed} for depth in ("20", "32") for seed in ("0", "1", "2")
    ]


def test_zipped_axes_go_together():
    points = grid(parse_axes(["model.depth=20,32", "seed=7,7", "model.shortcut=A,B"]), "zip")
    assert [point_name(point) for point in points] == [
        "model.depth=20,seed=7,model.shortcut=A",
        "model.depth=32,seed=7,model.shortcut=B",
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
        (["optimizer.learning_rate=1..0.1"], "is no range: the first number is less"),
        (["optimizer.learning_rate=0..1:log"], "both are above 0"),
    ],
)
def test_axes_that_are_none(axes, message):
    with pytest.raises(InputError, match=message):
        parse_axes(axes)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("f=0.01..1:log", Range(0.01, 1.0, True)),
        ("f=1e-4..1e-2", Range(1e-4, 1e-2, False)),
        ("f=-1..3", Range(-1, 3, False)),
        ("f=1..3.5", Range(1.0, 3.5, False)),
        # Folders are no ranges.
        ("f=../a,../b", ["../a", "../b"]),
    ],
)
def test_ranges_and_values(axis, expected):
    assert parse_axes([axis]) == {"f": expected}


def test_a_range_of_whole_numbers_stays_whole():
    axis = parse_axes(["seed=0..9"])["seed"]
    assert isinstance(axis, Range)
    assert (type(axis.low), type(axis.high)) == (int, int)


@pytest.mark.parametrize(
    ("axes", "combine", "message"),
    [
        (["seed=0,1,2", "model.depth=8,14"], "zip", "but seed has 3, model.depth has 2"),
        (["seed=0,1,0"], "product", "the point seed=0 is there twice"),
        (["seed=0,0", "model.depth=8,8"], "zip", "the point seed=0,model.depth=8 is there twice"),
        (["optimizer.learning_rate=0.1..1"], "product", "is a range: list its values, or search it"),
    ],
)
def test_grids_that_are_none(axes, combine, message):
    with pytest.raises(InputError, match=message):
        grid(parse_axes(axes), combine)


def test_corners_have_every_value_and_both_ends():
    points = corners(parse_axes(["model.depth=8,14,20", "optimizer.learning_rate=0.1..1"]))
    assert {point["model.depth"] for point in points} == {"8", "14", "20"}
    assert {point["optimizer.learning_rate"] for point in points} == {"0.1", "1.0"}
    assert len(points) == 4
