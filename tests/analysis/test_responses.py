"""Responses against NumPy's moments of feature maps that Flax captures, and against the closed form."""

import jax
import numpy as np
import pytest
from inside import IMAGES, LABELS, at, classifier

import resnet_jax as rj
from resnet_jax.analysis import layer_responses
from resnet_jax.analysis.execution import executed_layers
from resnet_jax.errors import InputError
from resnet_jax.evaluation import recalibrate
from resnet_jax.models import create, unstack
from resnet_jax.models.conv import Conv


def captured(network):
    """The output of each layer, by Flax's own means."""
    images = network.preprocessing(IMAGES)
    fields = {"train": False, "capture_intermediates": True, "mutable": ["intermediates"]}
    apply = jax.jit(lambda: network.model.apply(network.variables, images, **fields)[1]["intermediates"])
    return unstack(jax.device_get(apply()))


@pytest.mark.parametrize("bottleneck", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_responses_are_those_of_the_captured_maps(bottleneck):
    network = classifier("B", bottleneck)
    found = {each.name: each.std for each in layer_responses(network, IMAGES, batch_size=3)}
    blocks = [f"stage1/block{i}" for i in (1, 2)] + [f"stage2/block{i}" for i in (1, 2, 3)]
    inner = ["conv2"] if bottleneck else ["conv1", "conv2"]
    assert list(found) == ["conv1", *(f"{block}/{conv}" for block in blocks for conv in inner)]
    maps = captured(network)
    for name, std in found.items():
        values = np.float64(at(maps, name.replace("conv", "bn"))["__call__"][0])
        assert std == pytest.approx(values.std(), rel=1e-5), name


@pytest.mark.slow
def test_the_form_without_data_is_exact_with_the_statistics_of_the_batch():
    network = classifier(None)
    network = recalibrate(network, [IMAGES])
    found = layer_responses(network, IMAGES, train=True)
    assert [each.std_of_parameters for each in found] == pytest.approx([each.std for each in found], rel=1e-4)
    # The statistics of other images: it is another number.
    other = layer_responses(classifier(None), IMAGES)
    assert any(abs(each.std_of_parameters / each.std - 1) > 0.05 for each in other)


def test_resnet_110_has_109_layers_of_3x3():
    layers = executed_layers(create("cifar_resnet110"), (32, 32, 3))
    convs = [each for each in layers if isinstance(each.module, Conv)]
    assert len(convs) == 109
    # Names are unique, in order, and each batch norm follows the convolution of its number.
    assert [each.name for each in convs[:2]] + [convs[-1].name] == [
        "conv1",
        "stage1/block1/conv1",
        "stage3/block18/conv2",
    ]
    assert {each.name.replace("bn", "conv") for each in layers if each.follows} == {each.name for each in convs}
    assert all(each.follows in (None, each.name.replace("bn", "conv")) for each in layers)


def test_no_images_are_an_error_of_the_user():
    with pytest.raises(InputError, match="no image"):
        layer_responses(classifier(None), IMAGES[:0])
    with pytest.raises(InputError, match="no classifier"):
        layer_responses(LABELS, IMAGES)


@pytest.mark.slow
@pytest.mark.torch
def test_deeper_networks_respond_less_with_given_weights(test_data):
    """Figure 7, of akamaster's weights; 32 images suffice."""
    means = []
    for name in ("resnet20-12fca82f", "resnet44-014dd654"):
        images = np.load(test_data / "weights" / f"{name}_golden.npz")["image"]
        found = layer_responses(rj.load_torch(test_data / "weights" / f"{name}.th", log=lambda line: None), images)
        means.append(np.mean([each.std for each in found]))
    # Of 1,000 images these were 0.69 and 0.48.
    assert means == pytest.approx([0.69, 0.48], abs=0.03)
