import csv
import io
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import small
from resnet_jax.errors import InputError
from resnet_jax.evaluation.prediction import predict
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loading import load


@pytest.fixture(scope="module")
def digits():
    return small.load("digits").test


def probabilities(trained, images):
    return np.asarray(jax.nn.softmax(trained(images)))


def test_probabilities_are_the_softmax_of_the_logits(trained, logits, digits):
    found = probabilities(trained, digits.images)
    exponentials = np.exp(np.asarray(logits(digits.images), np.float64))
    expected = exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(found.argmax(-1), expected.argmax(-1))
    # Arrays are predicted as they are, and as what they are in files.
    results = predict(trained, digits.images, top=1)
    assert [result.file for result in results] == [str(i) for i in range(len(digits))]
    best = [result.classes[0] for result in results]
    assert [int(name) for name, _ in best] == expected.argmax(-1).tolist()
    np.testing.assert_allclose([probability for _, probability in best], expected.max(-1), atol=1e-5)
    colour = digits.images.repeat(3, -1)
    assert predict(trained, colour, top=1) == results


def test_files_of_test_images(trained, digits, tmp_path):
    paths = [tmp_path / f"digit{i}.png" for i in range(12)]
    for path, image in zip(paths, digits.images, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    results = predict(trained, paths)
    assert [result.file for result in results] == [str(path) for path in paths]
    for result, row in zip(results, probabilities(trained, digits.images[:12]), strict=True):
        order = np.argsort(-row)[:5]
        assert list(result.probabilities) == [str(i) for i in order]
        np.testing.assert_allclose(list(result.probabilities.values()), row[order], rtol=1e-5)
    assert len(predict(trained, paths[:1], top=2)[0].classes) == 2


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
@pytest.mark.parametrize("size", [(40, 24), (24, 40), (16, 16), (33, 17), (5, 3), (8, 300)])
def test_any_image_becomes_the_networks(trained, tmp_path, mode, size):
    """The digits' network sees 8 x 8 grey pixels."""
    width, height = size
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "image.png")
    # The shorter side becomes 8, the longer one keeps the proportions; then the middle.
    shorter = min(size)
    colour = image.convert("RGB").resize((width * 8 // shorter, height * 8 // shorter), Image.BICUBIC)
    left, top = round((colour.width - 8) / 2), round((colour.height - 8) / 2)
    seen = np.asarray(colour.convert("L"))[top : top + 8, left : left + 8, np.newaxis]
    (found,) = predict(trained, [tmp_path / "image.png"], top=10)
    expected = probabilities(trained, seen[np.newaxis])[0]
    given = [expected[int(name)] for name in found.probabilities]
    np.testing.assert_allclose(list(found.probabilities.values()), given, atol=0.02)


@pytest.mark.test_data
def test_files_are_seen_as_in_evaluation(photograph_runs, photograph_data, tmp_path):
    trained, indices = load(photograph_runs[0]), list(range(0, 100, 9))
    for index in indices:
        (tmp_path / f"{index:03}.jpg").write_bytes(photograph_data.validation[index].data)
    evaluate_runs(photograph_runs[:1], output=tmp_path / "scores")
    with (tmp_path / "scores" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = predict(trained, [tmp_path], top=1)
    assert [Path(result.file).name for result in results] == [f"{index:03}.jpg" for index in indices]
    for index, result in zip(indices, results, strict=True):
        ((name, probability),) = result.classes
        assert name == rows[index]["predicted"]
        assert probability == pytest.approx(float(rows[index]["probability"]), abs=1e-4)
    assert len({result.classes[0][0] for result in results}) > 1


@pytest.fixture
def album(digits, tmp_path):
    """Images in folders, a damaged one among them, and notes."""
    for i, name in enumerate(("b.png", "a.PNG", "more/c.jpg", "more/deep/d.bmp")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i][..., 0]).save(tmp_path / name)
    (tmp_path / "more" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("These are notes.")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found", "left_out"),
    [
        ([""], ["a.PNG", "b.png", "more/c.jpg", "more/deep/d.bmp"], ["more/broken.jpg"]),
        (["more/*.jpg"], ["more/c.jpg"], ["more/broken.jpg"]),
        (["**/?.*"], ["a.PNG", "b.png", "more/c.jpg", "more/deep/d.bmp"], []),
        (["*"], ["a.PNG", "b.png"], ["notes.txt"]),
        (["more/deep", "b.png", "b.png"], ["more/deep/d.bmp", "b.png", "b.png"], []),
    ],
)
def test_folders_and_patterns(trained, album, given, found, left_out):
    said = []
    results = predict(trained, [album / each for each in given], log=said.append)
    assert [result.file for result in results] == [str(album / name) for name in found]
    passed = [f"{album}: passed over: 1 .txt: notes.txt"] if given == [""] else []
    assert said[: len(passed)] == passed
    for line, name in zip(said[len(passed) :], left_out, strict=True):
        assert line.startswith(f"{album / name} cannot be read as an image: ")
    for result in results:
        (alone,) = predict(trained, [Path(result.file)])
        assert list(result.probabilities) == list(alone.probabilities)


def test_a_folder_is_walked_as_for_training(trained, album):
    """Nothing hidden, links, and no end in a circle of them; what cannot be read is said before anything is."""
    (album / ".hidden").mkdir()
    (album / "more" / "deep" / "round").symlink_to(album)
    (album / "more" / "deep" / "nothing.jpg").symlink_to(album / "gone.jpg")
    os.mkfifo(album / "pipe.jpg")
    (album / "linked").symlink_to(album.parent / f"{album.name}_elsewhere")
    elsewhere = album.parent / f"{album.name}_elsewhere"
    elsewhere.mkdir()
    for folder in (album / ".hidden", elsewhere):
        (folder / "e.png").write_bytes((album / "b.png").read_bytes())
    (album / "more" / "broken.jpg").unlink()
    said = []
    results = predict(trained, [album], top=1, log=said.append)
    names = ["a.PNG", "b.png", "linked/e.png", "more/c.jpg", "more/deep/d.bmp"]
    assert [result.file for result in results] == [str(album / name) for name in names]
    (line,) = said
    for part in ("1 .txt", "1 hidden", "1 entered already", "nothing: more/deep/nothing.jpg", "regular file: pipe.jpg"):
        assert part in line
    said.clear()
    results = predict(trained, [album / "**" / "?.*"], top=1, log=said.append)
    assert [result.file for result in results] == [str(album / name) for name in names]
    assert said == []
    predict(trained, [album / "**" / "*.jpg"], top=1, log=said.append)
    assert said == [
        f"{album / 'more/deep/nothing.jpg'} links to nothing; it is left out",
        f"{album / 'pipe.jpg'} is no regular file; it is left out",
    ]


def test_photographs_are_turned_upright(trained, digits, tmp_path):
    images = [Image.fromarray(image[..., 0]) for image in digits.images[:6]]
    for number, image in enumerate(images):
        tags = Image.Exif()
        tags[274] = 6
        image.save(tmp_path / f"{number} upright.png")
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{number} turned.png", exif=tags)
    results = predict(trained, [tmp_path])
    assert len(results) == 12
    for turned, upright in zip(results[::2], results[1::2], strict=True):
        assert Path(turned.file).name.split() == [Path(upright.file).name[0], "turned.png"]
        assert turned.classes == upright.classes


def test_nothing_to_predict(trained, album):
    (album / "empty").mkdir()
    for path, message in (
        (album / "empty", "holds no images"),
        (album / "*.gif", "no file matches"),
        (album / "*.txt", "none of the 1 files in .* can be read as an image"),
    ):
        with pytest.raises(InputError, match=message):
            predict(trained, [path], log=lambda line: None)


def test_arrays_that_are_no_images(trained):
    for wrong in (np.zeros((2, 8, 8, 1)), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 9, 9, 1), np.uint8)):
        with pytest.raises(InputError, match="but they must be uint8"):
            predict(trained, wrong)


def encoded(format):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.png", b"These are notes.\n"),
        ("empty.png", b""),
        ("short.png", encoded("PNG")[:3000]),
        ("header.png", encoded("PNG")[:20]),
        ("short.jpg", encoded("JPEG")[:1500]),
        ("header.jpg", encoded("JPEG")[:10]),
        ("flipped.png", encoded("PNG")[:60] + bytes(2000) + encoded("PNG")[2060:]),
        ("missing.png", None),
    ],
)
def test_files_that_are_no_images(trained, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        predict(trained, [tmp_path / name])
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
