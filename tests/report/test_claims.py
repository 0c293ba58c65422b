import dataclasses
import json
import statistics

import numpy as np
import pytest

from resnet_jax.errors import InputError
from resnet_jax.report import Claim, Curves, Results, read_results, write_results
from resnet_jax.report.claims import mean_and_spread

CURVES = Curves("iterations", "error (%)", {"plain-20, test": ([1, 2], np.float32([0.5, 0.25]))})
CLAIM = Claim("Deep is worse.", 8.75, [1.0, 2.0], "shown", unit="%", numbers={"a": np.arange(2)}, figure=CURVES)


def results(name="one", form="small", claims=(CLAIM,)):
    return Results(
        *(name, f"Title of {name}.", form, list(claims), f"python {name}.py", "2 CPU cores", "2026-11-29", "abc"),
        versions={"jax": "0.10.2"},
        seconds=1.0,
        cpu_seconds=2.0,
    )


def test_what_is_written_is_read_with_arrays_as_lists(tmp_path):
    write_results(tmp_path / "paper" / "one.json", results())
    (found,) = read_results(tmp_path)
    (claim,) = found.claims
    assert claim.numbers == {"a": [0, 1]}
    assert claim.figure == dataclasses.replace(CURVES, lines={"plain-20, test": [[1, 2], [0.5, 0.25]]})
    assert dataclasses.replace(claim, numbers={}, figure=None) == dataclasses.replace(CLAIM, numbers={}, figure=None)
    assert dataclasses.replace(found, claims=[]) == dataclasses.replace(results(), claims=[])


def test_results_are_found_below_folders_and_other_files_left_out(tmp_path):
    for name, form in (("b", "small"), ("a", "small"), ("a", "full")):
        write_results(tmp_path / form / f"{name}.json", results(name, form))
    (tmp_path / "small" / "soak.json").write_text('{"lives": []}')
    found = read_results(tmp_path / "small", tmp_path / "full")
    assert [(each.name, each.form) for each in found] == [("a", "full"), ("a", "small"), ("b", "small")]


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        read_results(tmp_path / "none")
    with pytest.raises(InputError, match="no results in"):
        read_results(tmp_path)
    write_results(tmp_path / "one.json", results())
    write_results(tmp_path / "two.json", results())
    with pytest.raises(InputError, match=r"two.json.*results of one \(small\) twice: remove one"):
        read_results(tmp_path)
    text = (tmp_path / "one.json").read_text()
    (tmp_path / "two.json").unlink()
    for wrong in (text[:-9], text.replace('"shown"', '"perhaps"'), text.replace('"paper"', '"papers"')):
        (tmp_path / "one.json").write_text(wrong)
        with pytest.raises(InputError, match=r"one.json is damaged"):
            read_results(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"form": "medium"}, {"claims": {}}, {"claims": "none"}, {"title": None}, {"versions": None}),
        *({"cpu_seconds": None}, {"cpu_seconds": "two"}, {"versions": {"jax": 1}}, {"resumed": 1}),
    ],
)
def test_damaged_results_are_said_to_be(tmp_path, wrong):
    write_results(tmp_path / "one.json", results())
    (tmp_path / "one.json").write_text(json.dumps(json.loads((tmp_path / "one.json").read_text()) | wrong))
    with pytest.raises(InputError, match=r"one.json is damaged"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"paper": None}, {"ours": None}, {"ours": 5.0}, {"ours": ["a"]}, {"ours": [float("nan")]}, {"seeds": "2"}),
        *({"statement": None}, {"section": None}, {"numbers": [1]}, {"figure": [1]}),
        *({"figure": {"x": "x", "y": "y", "lines": lines}} for lines in ({"a": [[1, 2], [1]]}, {"a": [[1], [None]]})),
        *({"figure": {"x": "x", "y": "y", "lines": lines}} for lines in ([], {"a": [1, 2]}, {"a": [[1]]})),
        {"figure": {"x": None, "y": "y", "lines": {}}},
    ],
)
def test_damaged_claims_are_said_to_be(tmp_path, wrong):
    write_results(tmp_path / "one.json", results())
    read = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(read | {"claims": [read["claims"][0] | wrong]}))
    with pytest.raises(InputError, match=r"one.json is damaged"):
        read_results(tmp_path)


def test_no_number_that_json_lacks_is_written(tmp_path):
    with pytest.raises(InputError, match="is not finite"):
        write_results(tmp_path / "one.json", results(claims=[dataclasses.replace(CLAIM, ours=[float("nan")])]))
    with pytest.raises(InputError, match="set has no form in JSON"):
        write_results(tmp_path / "one.json", results(claims=[dataclasses.replace(CLAIM, numbers={"a": {1}})]))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be made"):
        write_results(tmp_path / "file" / "one.json", results())


def test_a_claim_that_was_not_run_has_no_numbers():
    with pytest.raises(InputError, match="not run has numbers"):
        Claim("A.", 1.0, [1.0], "not run")
    with pytest.raises(InputError, match="must be one of shown, not shown, not run"):
        Claim("A.", 1.0, [1.0], "seen")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("ours", [[1e300, 1e300, -1e308], [10**400]])
def test_numbers_that_have_no_square_are_none_of_a_claim(ours):
    with pytest.raises(InputError, match="ours is"):
        dataclasses.replace(CLAIM, ours=ours)


def test_the_spread_is_that_of_the_sample():
    values = [8.75, 8.5, 9.25, 8.0]
    assert mean_and_spread(values) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    assert mean_and_spread([3.0]) == (3.0, None)


def test_the_file_is_plain_json(tmp_path):
    write_results(tmp_path / "one.json", results())
    assert json.loads((tmp_path / "one.json").read_text())["claims"][0]["ours"] == [1.0, 2.0]
