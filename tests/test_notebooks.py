"""Every notebook runs from top to bottom in an empty folder; what is stored of it is short and the same each time."""

import base64
import io
import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind=None):
    return [cell for cell in json.loads(path.read_text())["cells"] if kind in (None, cell["cell_type"])]


def text(cell):
    return "".join(cell["source"])


def pictures(cell):
    return [output["data"]["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]


@each_notebook
def test_a_notebook_is_short(path):
    code = cells(path, "code")
    assert len(code) <= 20
    for cell in code:
        lines = [line for line in text(cell).splitlines() if line.strip()]
        assert len(lines) <= 10, f"{cell['id']} has {len(lines)} lines"
    assert path.stat().st_size < 400_000


@each_notebook
def test_what_a_reader_may_change_is_in_the_first_cell(path):
    for line in text(cells(path, "code")[0]).splitlines():
        assert re.fullmatch(r"[A-Z_]+ = [^#]+  # .+", line), line


@each_notebook
def test_a_notebook_uses_public_names(path):
    code = "\n".join(text(cell) for cell in cells(path, "code"))
    assert re.findall(r"^.*import.*resnet_jax.*$|^from resnet_jax.*$", code, re.M) == ["import resnet_jax as rj"]
    assert not re.findall(r"\brj\S*\._\w+", code)
    assert not re.search(r"https?://|\bpip install|!\w", code)


@each_notebook
def test_each_picture_is_followed_by_what_to_see_and_a_question(path):
    found = cells(path)
    drawn = [i for i, cell in enumerate(found) if pictures(cell)]
    assert drawn
    for i in drawn:
        said = text(found[i + 1])
        assert found[i + 1]["cell_type"] == "markdown", found[i]["id"]
        assert said.count("?") == 1, said
        assert len(re.findall(r"[.?](?=\s|$)", said)) >= 2, said


@each_notebook
def test_outputs_are_stored_without_what_differs_in_every_run(path):
    stored = json.loads(path.read_text())
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert any(cell["outputs"] for cell in cells(path, "code"))
    for cell in cells(path, "code"):
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}, cell["id"]
        for output in cell["outputs"]:
            assert output["output_type"] != "error", cell["id"]
            assert output.get("name") != "stderr", output
            assert output.get("execution_count") is None
            assert set(output.get("data", {})) <= {"text/plain", "image/png"}
        told = json.dumps([output for output in cell["outputs"] if "image/png" not in output.get("data", {})])
        assert not re.search(r"20\d\d-\d\d-\d\d|\d:\d\d\b|images/s|/tmp|/home|\bat 0x", told), told


@each_notebook
def test_pictures_are_stored_at_80_dpi(path):
    for cell in cells(path, "code"):
        for picture in pictures(cell):
            image = Image.open(io.BytesIO(base64.b64decode("".join(picture))))
            assert image.info["dpi"] == pytest.approx((80, 80), abs=0.1), cell["id"]
            assert "Software" not in image.info


def test_the_curve_in_a_notebook_is_that_of_the_run():
    cell = next(cell for cell in cells(FOLDER / "02_train_and_watch.ipynb", "code") if cell["id"] == "cifar")
    names = {}
    exec(text(cell).split("lines = ")[0], names)
    stored = json.loads((FOLDER.parent / "experiments/results/cifar10_resnet20_800.json").read_text())
    points = [line for line in stored["lines"] if "test_error" in line]
    for field, values in names["CIFAR"].items():
        assert list(values) == pytest.approx([line[field] for line in points], abs=6e-4), field
    # The command, as the notebook prints it.
    said = " ".join(text(cell) for cell in cells(FOLDER / "02_train_and_watch.ipynb", "markdown"))
    assert stored["command"] in " ".join(said.replace("\\\n", " ").split())
    assert stored["date"] in said


def test_the_errors_in_a_notebook_are_those_of_the_runs():
    path = FOLDER / "03_degradation.ipynb"
    names = {}
    exec(text(next(cell for cell in cells(path, "code") if cell["id"] == "stored")), names)
    stored = json.loads((FOLDER.parent / "experiments/results/digits_degradation.json").read_text())
    assert list(names["STORED"]) == list(stored["metrics"])
    for name, lines in stored["metrics"].items():
        points = [line for line in lines if "test_error" in line]
        assert [line["step"] for line in points] == list(range(200, 1400, 200))
        for split, errors in zip(("train", "test"), names["STORED"][name], strict=True):
            assert errors == pytest.approx([100 * line[f"{split}_error"] for line in points], abs=0.051), name
    said = " ".join(text(cell) for cell in cells(path, "markdown"))
    assert stored["command"] in " ".join(said.replace("\\\n", " ").split())
    assert stored["date"] in said


def test_a_notebook_that_there_is_not_is_one_line(capsys):
    main = runpy.run_path(str(FOLDER / "execute.py"))["main"]
    assert main(["01_tour", "1_tour"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: there is no notebook 1_tour: there are {', '.join(p.stem for p in NOTEBOOKS)}\n"
    assert printed.out == ""
    assert main(["--help"]) == 0
    assert "python notebooks/execute.py 02_train_and_watch" in capsys.readouterr().out


@pytest.mark.slow
# The kernel's client leaves its event loop and sockets to the garbage collector.
@pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::RuntimeWarning")
@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
@each_notebook
def test_notebook_runs(path, monkeypatch, tmp_path):
    # It trains, as a reader does: quickly compiled programs would take longer.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    made = runpy.run_path(str(FOLDER / "execute.py"))["execute"](path, tmp_path)
    stored = cells(path)
    assert [len(pictures(cell)) for cell in made.cells] == [len(pictures(cell)) for cell in stored]
