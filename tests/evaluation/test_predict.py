import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import sources
from resnet_jax.errors import InputError
from resnet_jax.evaluation.predict import predict, predict_files, read_image


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits").test


def test_probabilities_are_the_softmax_of_the_logits(trained, logits, digits):
    probabilities = predict(trained, digits.images)
    exponentials = np.exp(np.asarray(logits(digits.images), np.float64))
    expected = exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.array_equal(probabilities.argmax(-1), expected.argmax(-1))


def test_files_of_test_images(trained, digits, tmp_path):
    paths = [tmp_path / f"digit{i}.png" for i in range(12)]
    for path, image in zip(paths, digits.images, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    results = predict_files(trained, paths)
    assert [result["file"] for result in results] == [str(path) for path in paths]
    for result, row in zip(results, predict(trained, digits.images[:12]), strict=True):
        order = np.argsort(-row)[:5]
        assert [entry["name"] for entry in result["classes"]] == [str(i) for i in order]
        np.testing.assert_allclose([entry["probability"] for entry in result["classes"]], row[order], rtol=1e-5)
    assert len(predict_files(trained, paths[:1], top=2)[0]["classes"]) == 2


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 1), ("RGB", 3), ("L", 3), ("RGBA", 1), ("P", 3), ("1", 1)])
def test_modes_become_the_networks(tmp_path, mode, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "image.png")
    read = read_image(tmp_path / "image.png", (8, 8, channels))
    assert read.shape == (8, 8, channels)
    assert read.dtype == np.uint8
    reference = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(8, 8, channels)
    np.testing.assert_array_equal(read, reference)


@pytest.mark.parametrize("size", [(40, 24), (24, 40), (16, 16), (33, 17), (5, 3), (8, 300)])
def test_other_sizes_are_resized_and_cropped(tmp_path, size):
    width, height = size
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    # The shorter side becomes 8, the longer one keeps the proportions; then the middle.
    shorter = min(size)
    resized = Image.fromarray(pixels).resize((round(width * 8 / shorter), round(height * 8 / shorter)), Image.BICUBIC)
    left, top = (resized.width - 8) // 2, (resized.height - 8) // 2
    reference = np.asarray(resized)[top : top + 8, left : left + 8]
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", (8, 8, 3)), reference)


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
        predict_files(trained, [tmp_path / name])
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_image(trained, tmp_path):
    with pytest.raises(InputError, match="cannot be read as an image"):
        predict_files(trained, [tmp_path])
