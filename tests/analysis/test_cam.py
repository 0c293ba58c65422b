"""Maps against NumPy's sums, against the logits, and Grad-CAM against gradients of the network's own parts."""

import jax
import numpy as np
import pytest

from resnet_jax.analysis import class_activation_maps, grad_cam, receptive_fields
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation import Classifier
from resnet_jax.interop import load_torch
from resnet_jax.models import VGG, DeepMLP, HighwayNet, ResNet, init
from small_networks import random_images, small_classifier


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


PREPROCESSING = Preprocessing.of_channels()
IMAGES = random_images(5)


@pytest.fixture(scope="module")
def stages(classifier):
    """Float64 feature maps of the images, by the names of the stages."""
    images = classifier.preprocessing(IMAGES)
    apply = jax.jit(lambda images: classifier.model.apply(classifier.variables, images, False, method="stages"))
    return {name: np.asarray(maps, np.float64) for name, maps in apply(images).items()}


@pytest.fixture(scope="module")
def predicted(classifier):
    return class_activation_maps(classifier, IMAGES)


def test_maps_are_the_weighted_sums_of_the_last_feature_maps(classifier, stages):
    classes = [2, 0, 1, 1, 2]
    found = class_activation_maps(classifier, IMAGES, classes)
    assert found.classes.tolist() == classes
    assert found.maps.shape == (5, 4, 4)
    kernel = classifier.variables["params"]["fc"]["kernel"].astype(np.float64)
    for i, each in enumerate(classes):
        expected = sum(kernel[k, each] * stages["stage2"][i, :, :, k] for k in range(6))
        np.testing.assert_allclose(found.maps[i], expected, rtol=1e-5, atol=1e-5)
    assert found.maps.min() < 0 < found.maps.max()  # signed


def test_the_mean_of_a_map_and_the_bias_are_the_logit(classifier, predicted):
    np.testing.assert_allclose(predicted.logits, classifier(IMAGES), rtol=1e-6)
    assert predicted.classes.tolist() == np.argmax(predicted.logits, 1).tolist()
    bias = classifier.variables["params"]["fc"]["bias"][np.asarray(predicted.classes)]
    logits = np.take_along_axis(np.asarray(predicted.logits), np.asarray(predicted.classes)[:, None], 1)[:, 0]
    assert np.abs(predicted.maps.mean((1, 2)) + bias - logits).max() < 1e-5 * np.abs(predicted.logits).max()


def test_grad_cam_of_a_linear_head_is_the_positive_map_over_the_positions(classifier, predicted):
    found = grad_cam(classifier, IMAGES)
    np.testing.assert_allclose(found.maps, np.maximum(predicted.maps, 0) / 16, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.logits, predicted.logits, rtol=1e-5)


def test_grad_cam_of_an_inner_layer_weighs_it_by_the_mean_gradient_of_the_logit(classifier, stages):
    model, variables = classifier.model, classifier.variables

    def logits(maps):
        last = model.apply(variables, 2, maps, False, method="stage")
        return model.apply(variables, last, method="head")[:, 1].sum()

    maps = stages["stage1"].astype(np.float32)
    weights = np.asarray(jax.jit(jax.grad(logits))(maps)).mean((1, 2), keepdims=True)
    found = grad_cam(classifier, IMAGES, 1, "stage1")
    np.testing.assert_allclose(found.maps, np.maximum((weights * maps).sum(-1), 0), rtol=1e-4, atol=1e-6)


def test_cells_lie_where_the_receptive_fields_have_their_centres(classifier, predicted):
    assert predicted.grid == (0, 2)
    first, last = receptive_fields(classifier.model)[-1].of_unit(3)
    assert predicted.grid[0] + 3 * predicted.grid[1] == (first + last) / 2
    # A batch norm has no field of its own, but as many cells as its neighbour.
    assert grad_cam(classifier, IMAGES, layer="stage1/first/bn2").grid == (0, 1)
    assert grad_cam(classifier, IMAGES, 1, "stage1").grid == (0, 1)


def test_gradients_reach_what_is_frozen_or_computed_twice(classifier):
    expected = grad_cam(classifier, IMAGES, 1, "stage1/first/bn2")
    assert np.asarray(expected.maps).any()
    for field in ({"freeze": "backbone"}, {"remat": True}):
        changed = classifier.replace(model=classifier.model.clone(**field))
        assert np.array_equal(grad_cam(changed, IMAGES, 1, "stage1/first/bn2").maps, expected.maps)


@pytest.mark.slow
def test_any_network_with_a_linear_layer_on_averages_has_maps():
    images, key = random_images(2, (8, 8, 3)), jax.random.key(0)
    fields = {"stage_sizes": (1, 1), "widths": (4, 6), "num_classes": 3}
    preact = ResNet(bottleneck=False, stem="cifar", shortcut="A", preactivation=True, **fields)
    for model in (preact, HighwayNet((1, 1), (4, 5, 6), 3)):
        classifier = Classifier(model, init(model, (8, 8, 3), key), PREPROCESSING, tuple("abc"), (8, 8, 3))
        found = class_activation_maps(classifier, images, 1)
        np.testing.assert_allclose(found.maps.mean((1, 2)), found.logits[:, 1], rtol=1e-4, atol=1e-5)
    for hidden in (16, 4, 8):  # 4 and 8 are widths of maps as well
        model = VGG((1, 1), (4, 8), num_classes=3, hidden=(16, hidden))
        classifier = Classifier(model, init(model, (8, 8, 3), key), PREPROCESSING, tuple("abc"), (8, 8, 3))
        with pytest.raises(InputError, match=r"this VGG has no linear layer on averaged feature maps.*use grad_cam"):
            class_activation_maps(classifier, images)
    found = grad_cam(classifier, images)
    assert found.maps.shape == (2, 2, 2)
    assert found.grid == (1.5, 4)  # poolings lie between pixels, as OpenCV has it


@pytest.mark.torch
def test_maps_of_given_weights_have_the_logits_of_pytorch(test_data):
    golden = np.load(test_data / "weights" / "resnet20-12fca82f_golden.npz")
    classifier = load_torch(test_data / "weights" / "resnet20-12fca82f.th", log=lambda line: None)
    found = class_activation_maps(classifier, golden["image"], 3)
    logits = found.maps.mean((1, 2)) + classifier.variables["params"]["fc"]["bias"][3]
    assert np.abs(logits - golden["logits"][:, 3]).max() < 1e-5 * np.abs(golden["logits"]).max()


def test_what_cannot_be_drawn_is_refused(classifier):
    with pytest.raises(InputError, match=r"whole numbers from 0 to 2"):
        class_activation_maps(classifier, IMAGES, 3)
    with pytest.raises(InputError, match=r"5 images and classes \(2,\)"):
        class_activation_maps(classifier, IMAGES, [1, 2])
    with pytest.raises(InputError, match=r"\(8, 8, 1\), but they must be"):
        class_activation_maps(classifier, IMAGES[0])
    model = DeepMLP(3, 4, 3)
    dense = classifier.replace(model=model, variables=init(model, (8, 8, 1), jax.random.key(0)))
    for function, why in (
        (grad_cam, "no layer with feature maps"),
        (class_activation_maps, "where it has feature maps"),
    ):
        with pytest.raises(InputError, match=why):
            function(dense, IMAGES)
    broken = classifier.replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, classifier.variables))
    for function in (class_activation_maps, grad_cam):
        with pytest.raises(InputError, match="logits of these images are not finite"):
            function(broken, IMAGES)
    with pytest.raises(InputError, match=r"no layer 'stage9'.*stage1/first/conv1.*stage2"):
        grad_cam(classifier, IMAGES, layer="stage9")
