"""resnet-jax features: computed once, and a head that is fitted to them."""

import dataclasses
import json
import types
from typing import Any

import numpy as np
import pytest

from resnet_jax.cli.main import main
from resnet_jax.data import small
from resnet_jax.errors import InputError
from resnet_jax.runs import extraction
from resnet_jax.runs.extraction import extract_features
from resnet_jax.runs.listing import list_runs
from resnet_jax.runs.loading import load


@pytest.fixture(scope="module")
def extracted(run_of_20, tmp_path_factory):
    """The features of the digits, the workdir of the head, and what was found."""
    folder = tmp_path_factory.mktemp("extracted")
    found = extract_features(run_of_20, "digits", folder / "features.npz", directory=folder / "head")
    return folder, found


def test_the_file_holds_what_the_head_was_given(extracted, run_of_20):
    folder, _ = extracted
    digits, theirs = small.load("digits"), load(run_of_20)
    with np.load(folder / "features.npz") as saved:
        arrays = dict(saved)
    assert arrays["class_names"].tolist() == list(map(str, range(10)))
    assert arrays["train_features"].dtype == np.float32
    np.testing.assert_array_equal(arrays["train_labels"], digits.train.labels)
    np.testing.assert_array_equal(arrays["test_labels"], digits.test.labels)
    # By hand: the average of the last maps.
    pixels = theirs.preprocessing(digits.test.images[:32])
    maps: Any = theirs.model.apply(theirs.variables, pixels, train=False, method="stages")
    np.testing.assert_allclose(arrays["test_features"][:32], maps["stage3"].mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert len(arrays["test_features"]) == len(arrays["test_names"]) == 360


def test_the_workdir_is_one_that_other_commands_take(extracted, tmp_path, capsys):
    folder, found = extracted
    assert found["images"] == 360
    assert found["error"] < 0.2  # of a network that was trained for 20 iterations
    assert main(["evaluate", f"--workdir={folder / 'head'}", "--format=json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert (score["split"], score["error"]) == (found["split"], pytest.approx(found["error"]))
    assert main(["evaluate", f"--workdir={folder / 'head'}"]) == 0
    assert capsys.readouterr().out.endswith(" on 360 images by center\n")  # and of no iterations
    assert main(["convert", str(folder / "head"), str(tmp_path / "head.safetensors")]) == 0
    (listed,) = list_runs(folder)
    assert (listed.state, listed.errors) == ("weights", {"test": found["error"]})
    assert main(["runs", str(folder), f"--output={tmp_path / 'runs.png'}"]) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": "there.npz"}, "there.npz exists, and nothing is replaced: give another --output, or remove it"),
        ({"output": "no/features.npz"}, "no/features.npz cannot be written: No such file or directory"),
        ({"output": None}, "--output is missing"),
        ({"workdir": "."}, "is not empty: give a folder that does not exist yet"),
        ({"weights": "no"}, "no, which does not exist: give the workdir of a run or a file of weights"),
        ({"weights": "empty"}, "empty is not the workdir of a run"),
        ({"weights": None}, "--weights is missing"),
        (
            {"dataset": "faces"},
            "unknown data set 'faces': did you mean 'cache'? it is one of digits, cifar10, cifar100, imagenet2012",
        ),
        (
            {"data_dir": "zzz"},
            "data_dir is 'zzz', but the digits lie in no folder: leave it away, or name the data set",
        ),
        ({"dataset": "folder"}, "data_dir is missing: it names a folder that holds train/CLASS/*.jpg"),
        ({"batch_size": "0"}, "--batch_size=0, but it must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(changed, message, run_of_20, tmp_path, capsys):
    (tmp_path / "there.npz").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    given = {"weights": run_of_20, "dataset": "digits", "output": "features.npz", "workdir": "head"} | changed
    paths = ("weights", "output", "workdir")
    flags = [f"--{name}={tmp_path / value if name in paths else value}" for name, value in given.items() if value]
    assert main(["features", *flags]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there.npz"]
    assert (tmp_path / "there.npz").read_bytes() == b"mine"


@pytest.mark.slow
def test_features_are_kept_where_no_head_can_be_fitted(run_of_20, tmp_path, monkeypatch):
    def with_another_class(*arguments):
        digits = small.load(*arguments)
        return dataclasses.replace(digits, class_names=(*digits.class_names, "ten"))

    monkeypatch.setattr(extraction, "small", types.SimpleNamespace(load=with_another_class))
    with pytest.raises(InputError, match=r"no image of ten: .*; the features are kept in .*a.npz$") as error:
        extract_features(run_of_20, "digits", tmp_path / "a.npz", directory=tmp_path / "head")
    assert "\n" not in str(error.value)
    with np.load(tmp_path / "a.npz") as saved:
        assert len(saved["train_features"]) == 1437
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_an_error_of_the_data_is_not_one_of_the_output(run_of_20, tmp_path, monkeypatch):
    def fail(*arguments):
        raise PermissionError(13, "Permission denied", "train/9")

    monkeypatch.setattr(extraction, "small", types.SimpleNamespace(load=fail))
    with pytest.raises(PermissionError, match="train/9"):
        extract_features(run_of_20, "digits", tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_prints_the_error(run_of_20, tmp_path, capsys):
    flags = [f"--weights={run_of_20}", "--dataset=digits", f"--output={tmp_path / 'a.npz'}"]
    assert main(["features", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test error ")
    assert lines[0].endswith(" on 360 images")
    assert lines[-1] == f"features   {tmp_path / 'a.npz'}"
