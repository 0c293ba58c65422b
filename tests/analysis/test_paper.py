import statistics
from pathlib import Path

import pytest

import resnet_jax as rj
from resnet_jax.errors import InputError

ROOT = Path(__file__).parent.parent.parent
TABLES = [rj.analysis.paper_table(number) for number in range(1, 15)]


def test_every_row_has_a_value_for_each_column():
    for table in TABLES:
        assert all(len(values) == len(table.columns) for values in table.rows.values()), table.title
        assert all(any(value is not None for value in values) for values in table.rows.values()), table.title
        assert table.title
        assert table.unit


@pytest.mark.parametrize("number", [10, 11])
def test_the_means_of_the_classes_are_the_printed_ones(number):
    """A slip in one of 20 values would move a mean by more than it is rounded by."""
    for name, (*classes, mean) in rj.analysis.paper_table(number).rows.items():
        assert len(classes) == 20
        assert statistics.mean(classes) == pytest.approx(mean, abs=0.055), name


def test_differences_that_the_text_states():
    """Sections 1, 4.1 and the appendices state these besides the tables."""
    plain, resnet = (rj.analysis.paper_table(2).value(f"{family}-34") for family in ("plain", "ResNet"))
    assert plain - resnet == pytest.approx(3.5, abs=0.05)
    coco = rj.analysis.paper_table(8)
    assert coco.value("ResNet-101") / coco.value("VGG-16") - 1 == pytest.approx(0.28, abs=0.005)
    assert coco.value("ResNet-101", "mAP@.5") - coco.value("VGG-16", "mAP@.5") == pytest.approx(6.9, abs=0.05)
    localisation = rj.analysis.paper_table(14)
    assert 1 - localisation.value("ResNet (ILSVRC'15)") / localisation.value("VGG (ILSVRC'14)") == pytest.approx(
        0.64, abs=0.005
    )
    detection = rj.analysis.paper_table(12)
    assert detection.value("ensemble (ILSVRC'15)", "test") == 62.1


def test_tables_that_share_a_network_agree():
    two, three = rj.analysis.paper_table(2), rj.analysis.paper_table(3)
    assert two.value("plain-34") == three.value("plain-34", "top-1")
    assert two.value("ResNet-34") == three.value("ResNet-34 A", "top-1")
    eight, nine = rj.analysis.paper_table(8), rj.analysis.paper_table(9)
    for name in ("VGG-16", "ResNet-101"):
        assert tuple(eight.rows[name]) == tuple(nine.rows[f"baseline ({name})"][:2])


def test_multiply_adds_are_those_that_are_counted():
    table = rj.analysis.paper_table(1)
    for depth in (18, 50):  # tests/analysis/test_complexity.py counts them all
        network = rj.create(f"resnet{depth}")
        counted = sum(layer.multiply_adds for layer in rj.analysis.layer_costs(network, 224, 3)) / 1e9
        assert counted == pytest.approx(table.value(f"ResNet-{depth}", "multiply-adds"), rel=0.02)


def test_the_statements_are_numbered_and_each_says_what_passes():
    assert [each.number for each in rj.analysis.STATEMENTS] == list(range(1, 30))
    assert all(each.text and each.passes for each in rj.analysis.STATEMENTS)
    for each in rj.analysis.STATEMENTS:
        file = each.where if "/" in each.where else f"experiments/paper/{each.where}.py"
        assert not each.where or (ROOT / file).exists(), each


def test_what_is_no_table_row_or_column_is_said():
    with pytest.raises(InputError, match="no table 15"):
        rj.analysis.paper_table(15)
    with pytest.raises(InputError, match="did you mean 'ResNet-20'"):
        rj.analysis.paper_table(6).value("resnet-20")
    with pytest.raises(InputError, match="no column 'top-1'"):
        rj.analysis.paper_table(6).value("ResNet-20", "top-1")
