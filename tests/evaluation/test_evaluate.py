import csv
import json
import shutil

import numpy as np
import pytest
from networks import save_run
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from resnet_jax.data import small
from resnet_jax.errors import InputError
from resnet_jax.evaluation import protocols
from resnet_jax.evaluation.outcomes import Outcomes
from resnet_jax.evaluation.scoring import Scored, score_images
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loading import load, load_run

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("split", ["test", "train", "validation"])
def test_scores_are_numpys(workdir, logits, split):
    data = getattr(small.load("digits", validation_images=77), split)
    scores = np.asarray(logits(data.images), np.float64)
    log_probabilities = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    wrong = scores.argmax(-1) != data.labels

    result = evaluate_runs([workdir], split)
    assert result["images"] == len(data)
    assert result["error"] == pytest.approx(wrong.mean(), abs=0.1 / len(data))
    assert result["loss"] == pytest.approx(-log_probabilities[np.arange(len(data)), data.labels].mean(), rel=1e-4)
    assert result["top5_error"] == pytest.approx(
        np.mean([label not in row.argsort()[-5:] for row, label in zip(scores, data.labels, strict=True)]), abs=1e-6
    )
    assert (result["split"], result["steps"], result["workdirs"]) == (split, [60], [str(workdir)])
    assert (result["protocol"], result["damaged"]) == ("center", 0)
    # Neither nothing nor everything was learned, so that the error says something.
    assert 0.02 < result["error"] < 0.85


@pytest.mark.parametrize("batch_size", [1, 12, 56, 360, 512])
def test_batch_size_makes_no_difference(workdir, batch_size):
    ours, usual = evaluate_runs([workdir], batch_size=batch_size), evaluate_runs([workdir])
    assert ours["images"] == 360
    assert ours["error"] == pytest.approx(usual["error"], abs=1e-6)
    assert ours["loss"] == pytest.approx(usual["loss"], rel=1e-5)


def test_the_runs_own_result_is_the_same(workdir):
    result = json.loads((workdir / "result.json").read_text())
    scored = evaluate_runs([workdir])
    assert scored["error"] == pytest.approx(result["test_error"], abs=1e-6)
    assert scored["loss"] == pytest.approx(result["test_loss"], rel=1e-5)


def test_what_cannot_be_evaluated(workdir, tmp_path):
    with pytest.raises(InputError, match="no split 'dev' in this run's data: it has test, train, validation"):
        evaluate_runs([workdir], "dev")
    for batch_size in (0, -8):
        with pytest.raises(InputError, match=f"batch size is {batch_size}, but it must be at least 1"):
            evaluate_runs([workdir], batch_size=batch_size)
    with pytest.raises(InputError, match="is not the workdir of a run"):
        evaluate_runs([tmp_path])
    with pytest.raises(InputError, match="no run was given"):
        evaluate_runs([])
    with pytest.raises(InputError, match="dense is for image files, but these arrays are scored as they are"):
        evaluate_runs([workdir], protocol="dense")
    with pytest.raises(InputError, match="is the workdir of a run"):
        evaluate_runs([workdir], output=workdir)
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        load_run(tmp_path)


def probabilities(directories, images, name, scales=None):
    members = [load(directory) for directory in directories]
    found = sorted(score_images(members, images, protocols.choose(name, scales), 30), key=lambda each: each.index)
    return np.exp(np.array([each.scores for each in found], np.float64))


@pytest.mark.test_data
@pytest.mark.parametrize(("name", "scales"), [("center", None), ("ten_crop", None), ("dense", (32,))])
def test_photographs_are_scored_as_sklearn_scores(photograph_runs, photograph_data, name, scales):
    labels = [photograph_data.validation[i].label for i in range(100)]
    members = [probabilities([directory], photograph_data.validation, name, scales) for directory in photograph_runs]
    for directories, expected in ((photograph_runs[:1], members[0]), (photograph_runs, np.mean(members, axis=0))):
        result = evaluate_runs(directories, protocol=name, scales=scales, batch_size=30)
        classes = np.arange(1000)
        assert result["workdirs"] == [str(directory) for directory in directories]
        assert result["steps"] == [3] * len(directories)
        assert (result["split"], result["images"], result["damaged"]) == ("validation", 100, 0)
        assert result.get("scales") == (None if scales is None else [32])
        assert result["error"] == pytest.approx(1 - accuracy_score(labels, expected.argmax(axis=1)), abs=1e-9)
        top5 = top_k_accuracy_score(labels, expected, k=5, labels=classes)
        assert result["top5_error"] == pytest.approx(1 - top5, abs=1e-9)
        # Neither nothing nor everything is right, so that the errors say something.
        assert 0.1 < result["top5_error"] < result["error"] < 0.98
        normalized = expected / expected.sum(axis=1, keepdims=True)
        assert result["loss"] == pytest.approx(log_loss(labels, normalized, labels=classes), rel=1e-4)


@pytest.mark.test_data
def test_the_other_split(photograph_runs):
    assert evaluate_runs(photograph_runs[:1], "train")["images"] == 200
    with pytest.raises(InputError, match="no split 'test' in this run's data: it has validation, train"):
        evaluate_runs(photograph_runs[:1], "test")


CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


@pytest.fixture(scope="module")
def folder(photographs, tmp_path_factory):
    """A data set of seven classes; one has no image to validate on, and one image is damaged."""
    root = tmp_path_factory.mktemp("folder") / "animals"
    for i, photograph in enumerate(photographs[:70]):
        split, name = ("train", CLASSES[i % 7]) if i < 7 else ("val", CLASSES[i // 2 % 6])
        (root / split / name).mkdir(parents=True, exist_ok=True)
        (root / split / name / f"{i}.jpg").write_bytes(photograph.data)
    (root / "val" / "cat" / "broken.jpg").write_bytes(photographs[0].data[:2000])
    return root


@pytest.fixture(scope="module")
def folder_run(folder, known, tmp_path_factory):
    directory = tmp_path_factory.mktemp("folder_run") / "run"
    return save_run(directory, CLASSES, known[0][:7], range(7), dataset="folder", data_dir="/nowhere", seed=4)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.test_data
def test_files_of_an_evaluation(folder, folder_run, tmp_path):
    said = []
    result = evaluate_runs([folder_run], data_dir=str(folder), output=tmp_path / "new" / "out", log=said.append)
    assert (result["images"], result["damaged"]) == (63, 1)
    (line,) = said
    assert line.startswith("val/cat/broken.jpg is damaged and left out: ")
    assert "\n" not in line
    out = tmp_path / "new" / "out"
    assert json.loads((out / "result.json").read_text()) == result

    header, *rows = read_csv(out / "predictions.csv")
    assert header == ["image", "label", "predicted", "probability"]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("val/*/[0-9]*.jpg"))
    assert sorted(row[0] for row in rows) == files
    trained = load(folder_run)
    for name, label, predicted, probability in rows:
        assert label == name.split("/")[1]
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        view = protocols.center_view(pixels, 37, (32, 32), "bilinear")
        scores = np.exp(np.asarray(protocols.scores(protocols.choose("center"), trained, view[np.newaxis]))[0])
        assert predicted == CLASSES[scores.argmax()]
        assert float(probability) == pytest.approx(scores.max(), abs=1e-4)
    true, predicted = [row[1] for row in rows], [row[2] for row in rows]
    assert len(set(predicted)) > 3

    header, *rows = read_csv(out / "confusion.csv")
    assert header[1:] == list(CLASSES) == [row[0] for row in rows]
    counts = np.array([row[1:] for row in rows], int)
    expected = confusion_matrix(true, predicted, labels=CLASSES)
    assert (expected != expected.T).any()
    np.testing.assert_array_equal(counts, expected)

    header, *rows = read_csv(out / "per_class.csv")
    assert header == ["class", "images", "correct", "accuracy"]
    for (name, images, correct, accuracy), row in zip(rows, expected, strict=True):
        assert (int(images), int(correct)) == (row.sum(), row[CLASSES.index(name)])
        assert accuracy == ("" if name == "gnu" else f"{int(correct) / int(images):.6g}")
    assert result["error"] == pytest.approx(1 - np.trace(expected) / 63)
    assert Image.open(out / "confusion.png").size > (100, 100)
    assert sorted(path.name for path in out.iterdir()) == [
        "confusion.csv", "confusion.png", "per_class.csv", "predictions.csv", "result.json",
    ]  # fmt: skip


@pytest.mark.test_data
def test_data_that_are_not_the_networks(folder, folder_run, photograph_runs, test_data, tmp_path):
    with pytest.raises(InputError, match="/nowhere does not exist"):
        evaluate_runs([folder_run])
    renamed = tmp_path / "renamed"
    shutil.copytree(folder, renamed)
    for split in ("train", "val"):
        (renamed / split / "dog").rename(renamed / split / "doe")
    with pytest.raises(InputError, match=r"class 3 is 'dog' in .*run, but 'doe' in the data"):
        evaluate_runs([folder_run], data_dir=str(renamed))
    shutil.rmtree(renamed / "train" / "gnu")
    with pytest.raises(InputError, match="trained on 7 classes, but the data has 6"):
        evaluate_runs([folder_run], data_dir=str(renamed))
    for path in renamed.glob("val/*/*"):
        path.write_bytes(b"")
    (renamed / "train" / "gnu").mkdir()
    shutil.copy(next(folder.glob("train/gnu/*")), renamed / "train" / "gnu")
    for split in ("train", "val"):
        (renamed / split / "doe").rename(renamed / split / "dog")
    with pytest.raises(InputError, match="all of the 64 images are damaged"):
        evaluate_runs([folder_run], data_dir=str(renamed), log=lambda line: None)


@pytest.mark.test_data
def test_members_that_do_not_fit_together(
    workdir, folder_run, photograph_runs, photograph_data, known, test_data, tmp_path
):
    for others, message in (
        ([folder_run], "run was trained on 7 classes, but the data has 1000"),
        ([workdir], "run was trained on 10 classes, but the data has 1000"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_runs([*photograph_runs, *others])
    names = list(photograph_data.class_names)
    fields = {"data_dir": str(test_data / "tfds")}
    other = save_run(tmp_path / "names", [*names[:7], "n0", *names[8:]], *known, **fields)
    with pytest.raises(InputError, match=r"class 7 is 'n0' in .*names, but 'n01514668' in the data"):
        evaluate_runs([photograph_runs[0], other])
    other = save_run(tmp_path / "images", names, *known, data_crc=2, **fields)
    assert evaluate_runs([photograph_runs[0], other])["images"] == 100  # trained on other images of the same classes
    other = save_run(tmp_path / "fewer", names[:-1], *known, **fields)
    with pytest.raises(InputError, match="fewer was trained on 999 classes, but the data has 1000"):
        evaluate_runs([photograph_runs[0], other])
    # Converted weights know no names.
    other = save_run(tmp_path / "converted", [f"class {i}" for i in range(1000)], *known, data_crc=0, **fields)
    assert evaluate_runs([photograph_runs[0], other])["images"] == 100


def test_equally_probable_classes():
    """The first of them counts as the more probable."""
    found = Outcomes(4, 7)
    scores = np.log(np.array((0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2), np.float32))
    for index, label in enumerate((1, 2, 3, 4)):
        found.note(Scored(index, "", label, scores))
    assert found.ranks.tolist() == [0, 1, 4, 5]
    assert found.predicted.tolist() == [1, 1, 1, 1]
    assert found.summary()["error"] == pytest.approx(3 / 4)
    assert found.summary()["top5_error"] == pytest.approx(1 / 4)
    assert str(found) == "Outcomes(error 75.00%, top-5 error 25.00%, loss 1.9560: 4 images, 0 damaged)"
    few = Outcomes(1, 5)
    few.note(Scored(0, "", 0, scores[:5]))
    assert "top5_error" not in few.summary()
    with pytest.raises(InputError, match="image x is of class 7, but the network knows 7 classes"):
        Outcomes(1, 7).note(Scored(0, "x", 7, None))
    with pytest.raises(RuntimeError, match="scored twice"):
        found.note(Scored(1, "", 2, scores))
