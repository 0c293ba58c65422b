"""Features of whole splits, each image once, and a head fitted on them against NumPy."""

import jax
import numpy as np
import pytest
from networks import pooled, random_preprocessing, random_variables

from resnet_jax import models
from resnet_jax.data.encoded import EncodedImage
from resnet_jax.data.small import Split
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.linear_probe import Features, features, fit_head
from resnet_jax.evaluation.outcomes import evaluate


@pytest.fixture(scope="module")
def network():
    model = models.ResNet((1, 1, 1), (4, 8, 16), False, "cifar", 3, "A")
    return Classifier(model, random_variables(model, 16, 0), random_preprocessing(16), ("a", "b", "c"), (16, 16, 3))


@pytest.fixture(scope="module")
def split():
    """Pictures of three colours, and much noise."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=90).astype(np.int32)
    pixels = random.integers(0, 256, (90, 16, 16, 3)) * 0.7 + 60 * np.eye(3)[labels][:, None, None]
    return Split(pixels.astype(np.uint8), labels)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_every_image_once_and_in_order(network, split, batch_size):
    seen = []

    def progress(iterable, total, label):
        for each in iterable:
            seen.append((total, label))
            yield each

    found = features(network, split, batch_size, progress=progress)
    assert (found.features.dtype, found.labels.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(
        found.features,
        pooled(network.model, network.variables, network.preprocessing(split.images)),
        rtol=1e-4,
        atol=1e-4,
    )
    np.testing.assert_array_equal(found.labels, split.labels)
    assert found.names == [str(i) for i in range(90)]
    assert seen == [(90, "images")] * 90


def test_files_are_shown_as_evaluation_does_and_damaged_ones_are_said(network, split):
    """Of twice the size, so that the centre is what the pictures were."""
    images = [
        EncodedImage(pixels.repeat(2, 0).repeat(2, 1), int(label), f"{i}.jpg")
        for i, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True))
    ]
    images[4] = EncodedImage(b"these are notes", 1, "4.jpg")
    said = []
    found = features(network, images, log=said.append)
    assert [line.split(" is damaged")[0] for line in said] == ["4.jpg"]
    assert found.names == [f"{i}.jpg" for i in range(90) if i != 4]
    np.testing.assert_array_equal(found.labels, np.delete(split.labels, 4))
    fc = network.variables["params"]["fc"]
    logits = found.features @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"])
    outcomes = evaluate(network, images, log=said.append)
    np.testing.assert_array_equal(logits.argmax(1), outcomes.predicted[outcomes.done])


def softmax_regression(x, labels, classes, penalty):
    """Its minimum, by Newton's method in float64."""
    x = np.concatenate([(x - x.mean(0)) / x.std(0), np.ones((len(x), 1))], 1)
    weights, targets = np.zeros((x.shape[1], classes)), np.eye(classes)[labels]
    decay = np.diag([penalty] * (x.shape[1] - 1) + [0.0])
    for _ in range(30):
        logits = x @ weights
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        gradient = x.T @ (shares - targets) + decay @ weights
        curvature = np.einsum("nk,kl,ni,nj->ikjl", shares, np.eye(classes), x, x)
        curvature -= np.einsum("nk,nl,ni,nj->ikjl", shares, shares, x, x)
        curvature += np.einsum("ij,kl->ikjl", decay, np.eye(classes))
        step = np.linalg.lstsq(curvature.reshape(gradient.size, -1), gradient.ravel(), rcond=1e-12)[0]
        weights -= step.reshape(weights.shape)
    return shares


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [1.0, 30.0])
def test_a_fitted_head_is_the_minimum_that_newton_finds(network, split, classes, penalty):
    rows = split.labels < classes
    split = split.take(rows)
    found = features(network, split)
    fitted = fit_head(network, found, tuple("xyz")[:classes], penalty)
    assert fitted.class_names == tuple("xyz")[:classes]
    logits = np.asarray(fitted(split.images))
    fc = fitted.variables["params"]["fc"]
    np.testing.assert_allclose(
        logits, found.features @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"]), rtol=1e-3, atol=1e-3
    )
    expected = softmax_regression(found.features.astype(np.float64), found.labels, classes, penalty)
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=2e-3)
    assert evaluate(fitted, split).error == (expected.argmax(1) != split.labels).mean() < 0.3
    again = fit_head(network, found, tuple("xyz")[:classes], penalty)
    jax.tree.map(np.testing.assert_array_equal, again.variables, fitted.variables)
    for name, part in network.variables["params"].items():
        assert name == "fc" or fitted.variables["params"][name] is part


def test_a_channel_that_is_constant_changes_nothing(network, split):
    found = features(network, split)
    constant = found._replace(features=np.concatenate([found.features[:, :-1], np.full((90, 1), 3, np.float32)], 1))
    kernel = fit_head(network, constant, tuple("xyz")).variables["params"]["fc"]["kernel"]
    assert np.isfinite(kernel).all()
    np.testing.assert_array_equal(kernel[-1], np.zeros(3))


def test_what_does_not_fit_is_named(network, split):
    found = features(network, split)
    for call, message in (
        (lambda: features("runs/mine", split), "^str is no classifier: give what load"),
        (lambda: features(network, split.images), "^ndarray is no split"),
        (lambda: features(network, [EncodedImage(b"", 0, "x")], log=print), "all of the 1 images are damaged"),
        (lambda: features(network, split, 0), "batch size is 0"),
        (lambda: fit_head(network, found, "cat"), "class_names is 'cat'"),
        (lambda: fit_head(network, found, ["x", "y"]), "are of 3 classes, but class_names has 2: give"),
        (lambda: fit_head(network, found, list("wxyz")), "class_names has 4, and there is no image of z: give"),
        (lambda: fit_head(network, found, ["x"]), "class_names has 1: give at least two"),
        (lambda: fit_head(network, found, list("xyz"), 0.0), "penalty is 0.0, but it must be a number greater"),
        (lambda: fit_head(network, found, list("xyz"), "1"), "penalty is '1', but it must be a number greater"),
        (lambda: fit_head(network, found, [0, 1, 2]), "class_names holds 0, but a name is text: give '0', say"),
        (
            lambda: fit_head(network, found._replace(labels=found.labels[1:]), list("xyz")),
            r"\(90, 16\), but .* \(89, 16\)",
        ),
        (lambda: fit_head(network, Features(found.features * np.nan, *found[1:]), list("xyz")), "not all finite"),
    ):
        with pytest.raises(InputError, match=message):
            call()
