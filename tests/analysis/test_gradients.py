"""Gradient norms against NumPy and against what scaling a kernel does; autocorrelation against closed forms."""

import jax
import numpy as np
import pytest
from inside import IMAGES, LABELS, SHAPE, classifier
from scipy.special import softmax

from resnet_jax.analysis import autocorrelation, gradient_autocorrelation, gradient_norms
from resnet_jax.analysis.inputs import unfrozen
from resnet_jax.errors import InputError
from resnet_jax.evaluation import Classifier
from resnet_jax.models import VGG, DeepMLP, init, stack, unstack


@pytest.fixture(scope="module")
def norms():
    return gradient_norms(classifier("A"), IMAGES, LABELS)


def test_the_classifiers_gradient_is_numpys(norms):
    network = classifier("A")
    variables, images = network.variables, network.preprocessing(IMAGES)
    fields = {"train": True, "method": "features", "mutable": ["batch_stats"]}
    features, _ = jax.jit(lambda: network.model.apply(variables, images, **fields))()
    features, fc = np.float64(features), jax.tree.map(np.float64, variables["params"]["fc"])
    errors = softmax(features @ fc["kernel"] + fc["bias"], 1) - np.eye(3)[LABELS]
    assert norms[-1].name == "fc"
    assert norms[-1].kernel_norm == pytest.approx(np.linalg.norm(fc["kernel"]))
    assert norms[-1].gradient_norm == pytest.approx(np.linalg.norm(features.T @ errors / 6), rel=1e-4)


def test_a_kernel_that_is_doubled_before_a_batch_norm_has_half_the_gradient(norms):
    network, name = classifier("A"), "stage2/block3/conv1"
    variables = unstack(jax.device_get(network.variables))
    kernel = variables["params"]["stage2"]["block3"]["conv1"]["kernel"]
    variables["params"]["stage2"]["block3"]["conv1"]["kernel"] = 1024 * kernel
    scaled = gradient_norms(network.replace(variables=stack(variables)), IMAGES, LABELS)
    assert [each.name for each in scaled] == [each.name for each in norms]
    for before, after in zip(norms, scaled, strict=True):
        factor = 1024 if before.name == name else 1
        # The epsilon of the batch norm counts for less behind the larger kernel.
        assert after.kernel_norm == pytest.approx(factor * before.kernel_norm)
        assert after.gradient_norm == pytest.approx(before.gradient_norm / factor, rel=1e-2), before.name


def test_what_is_frozen_has_gradients_too(norms):
    network = classifier("A")
    frozen = network.replace(model=network.model.clone(freeze="backbone"))
    assert gradient_norms(frozen, IMAGES, LABELS) == norms
    assert unfrozen(VGG((1,), (4,), 3)) == VGG((1,), (4,), 3, dropout=0.0)  # no key is given for what it would drop


def test_layers_of_a_network_without_stages_have_the_names_of_its_variables():
    model, norm = DeepMLP(4, 5, 3), classifier("A").preprocessing
    variables = jax.device_get(init(model, SHAPE, jax.random.key(0)))
    network = Classifier(model, variables, norm, ("a", "b", "c"), SHAPE)
    found = {each.name: each for each in gradient_norms(network, IMAGES, LABELS)}
    assert list(found) == ["block1", "block2/fc", "block3/fc", "fc"]
    last = variables["params"]["rest"]["fc"]["kernel"][1]
    assert found["block3/fc"].kernel_norm == pytest.approx(np.linalg.norm(last))
    assert min(each.gradient_norm for each in found.values()) > 0


def test_labels_may_be_a_list(norms):
    assert gradient_norms(classifier("A"), IMAGES, LABELS.tolist()) == norms


def test_images_and_labels_belong_together():
    with pytest.raises(InputError, match="6 images and 2 labels"):
        gradient_norms(classifier("A"), IMAGES, LABELS[:2])


def test_autocorrelation_is_the_mean_over_pairs():
    series = np.random.default_rng(0).normal(size=(50, 3)).cumsum(0)
    centred = series - series.mean(0)
    pairs = [np.mean([centred[i] @ centred[i + lag] for i in range(50 - lag)]) for lag in (0, 1, 7)]
    assert autocorrelation(series, [0, 1, 7]) == pytest.approx(np.array(pairs) / pairs[0])
    assert pairs[1] / pairs[0] > 0.9  # Brownian motion
    noise = np.random.default_rng(1).normal(size=(4000, 1))
    assert autocorrelation(noise, [0, 1, 5]) == pytest.approx([1, 0, 0], abs=0.05)


def test_gradients_of_a_function_are_correlated():
    inputs = np.linspace(-1, 1, 21, dtype=np.float32)[:, None] * np.array([1, 2], np.float32)
    found = gradient_autocorrelation(lambda x: (x**3).sum(), inputs, [0, 3])
    assert found == pytest.approx(autocorrelation(3 * inputs**2, [0, 3]), rel=1e-5)
    with pytest.raises(InputError, match="lags"):
        gradient_autocorrelation(lambda x: x.sum(), inputs, [21])
    with pytest.raises(InputError, match=r"lag is 1\.5"):
        autocorrelation(inputs, [1.5])
