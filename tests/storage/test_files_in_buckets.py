"""Weights, programs, features and reports that are written to a bucket and read there are those of a disk."""

import json

import jax
import numpy as np
import pytest

import resnet_jax as rj
from resnet_jax.cli.main import main
from resnet_jax.files import expanded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of an untrained network for digits."""
    directory = tmp_path_factory.mktemp("disk") / "run"
    fields = ("model.depth=8", "mesh.data=1", "train.iterations=1", "train.batch_size=16")
    assert main(["train", "--config=digits", *(f"--config.{field}" for field in fields), f"--workdir={directory}"]) == 0
    return directory


def test_weights_there_and_back(server, place, run):
    assert main(["convert", str(run), f"{place}/weights.safetensors"]) == 0
    before, after = rj.load(run), rj.interop.load_torch(f"{place}/weights.safetensors")
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)
    assert main(["convert", f"{place}/weights.safetensors", f"{place}/again"]) == 0
    jax.tree.map(np.testing.assert_array_equal, before.variables, rj.load(f"{place}/again").variables)


def test_weights_that_are_not_there(server, place, capsys):
    assert main(["convert", f"{place}/none.safetensors", f"{place}/run"]) == 2
    assert capsys.readouterr().err == f"error: {place}/none.safetensors does not exist: give a file of weights\n"
    expanded(place, remote=True).joinpath("empty.safetensors").write_bytes(b"")
    assert main(["convert", f"{place}/empty.safetensors", f"{place}/run"]) == 2
    assert "empty.safetensors is empty" in capsys.readouterr().err


def test_programs_and_features_are_written_there(server, place, run, tmp_path, capsys):
    for folder in (place, tmp_path):
        assert main(["export", f"--workdir={run}", f"--output={folder}/program"]) == 0
        assert main(["features", f"--weights={run}", "--dataset=digits", f"--output={folder}/features.npz"]) == 0
    there = expanded(place, remote=True)
    for name in ("program", "program.json", "features.npz"):
        assert (there / name).read_bytes() == (tmp_path / name).read_bytes()
    capsys.readouterr()
    assert main(["features", f"--weights={run}", "--dataset=digits", f"--output={place}/features.npz"]) == 2
    assert "features.npz exists, and nothing is replaced" in capsys.readouterr().err


def test_a_page_of_results_is_written_there(server, place, tmp_path):
    claims = [rj.report.Claim("Deeper is better.", "Table 6", [8.0, 8.2], "shown", unit="%", seeds=2)]
    results = rj.report.Results(
        *("depth", "Depth", "small", claims, "python depth.py", "2 CPU cores", "2026-11-29", "abc"),
        versions={"jax": "0.10.2"},
        seconds=1.0,
        cpu_seconds=2.0,
    )
    for folder in (f"{place}/page", str(tmp_path)):
        rj.report.write_results(f"{folder}/depth.json", results)
        assert rj.report.read_results(folder) == [results]
        rj.report.write_report([folder], f"{folder}/report.html")
    there = expanded(f"{place}/page", remote=True)
    for name in ("depth.json", "report.html", "report.md"):
        assert (there / name).read_bytes() == (tmp_path / name).read_bytes()
    assert json.loads((there / "depth.json").read_bytes())["name"] == "depth"
