"""Deeper networks have to the bit the maps that the given ones have; blocks that are merely drawn do not."""

import functools

import jax
import numpy as np
import pytest
from inside import IMAGES, classifier

from resnet_jax.analysis import deepen
from resnet_jax.errors import InputError
from resnet_jax.models import abstract_variables, init, stack, unstack

slow = pytest.mark.slow
CASES = [("A", False), (None, False), *(pytest.param(*each, marks=slow) for each in (("C", False), ("B", True)))]


@functools.partial(jax.jit, static_argnames="model")
def stages(model, variables, images):
    # Variables that are constants of a program are folded into it, which rounds.
    return model.apply(variables, images, train=False, method="stages")


def maps(network):
    return stages(network.model, network.variables, network.preprocessing(IMAGES))


def train_logits(network):
    variables, images = network.variables, network.preprocessing(IMAGES)
    apply = jax.jit(lambda: network.model.apply(variables, images, train=True, mutable=["batch_stats"])[0])
    return np.array(apply())


@pytest.mark.parametrize(("shortcut", "bottleneck"), CASES)
def test_a_deeper_network_has_the_same_maps_and_logits(shortcut, bottleneck):
    network = classifier(shortcut, bottleneck)
    deeper = deepen(network, (3, 5))
    assert deeper.model.stage_sizes == (3, 5)
    shapes = abstract_variables(deeper.model, (8, 8, 2))
    assert jax.tree.map(np.shape, deeper.variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert jax.tree.all(jax.tree.map(np.array_equal, maps(deeper), maps(network)))
    np.testing.assert_allclose(deeper(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-5)


def test_blocks_that_are_drawn_change_the_logits():
    network = classifier(None)
    deeper = deepen(network, (3, 5))
    drawn = unstack(jax.device_get(init(deeper.model, (8, 8, 2), jax.random.key(0))))
    variables = unstack(jax.device_get(deeper.variables))
    for collection in variables:
        variables[collection]["stage2"]["block5"] = drawn[collection]["stage2"]["block5"]
    assert not np.allclose(deeper.replace(variables=stack(variables))(IMAGES), network(IMAGES), atol=1e-2)


def test_convolutions_that_are_added_can_learn():
    block = unstack(deepen(classifier("A"), (3, 5)).variables)["params"]["stage2"]["block4"]
    assert block["conv1"]["kernel"].std() == pytest.approx(np.sqrt(2 / 36), rel=0.2)  # drawn as He et al. do
    assert not block["bn2"]["scale"].any()
    assert block["bn1"]["scale"].all()


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", [None, "C"])
def test_matched_statistics_make_identities_in_training_too(shortcut):
    network = classifier(shortcut)
    # The statistics that training uses are those of the batch itself: the running ones become those.
    images, model = network.preprocessing(IMAGES), network.model.clone(momentum=0.0)
    updated = jax.jit(lambda: model.apply(network.variables, images, train=True, mutable=["batch_stats"])[1])()
    network = network.replace(variables={**network.variables, **updated})
    wanted = train_logits(network)
    # The running variance is the unbiased one, and the last maps have 16 pixels of 6 images.
    matched, given = train_logits(deepen(network, (2, 4), IMAGES)), train_logits(deepen(network, (2, 4)))
    assert np.abs(matched - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.abs(given - wanted).max() > 0.2 * np.abs(wanted).max()
    assert np.allclose(deepen(network, (2, 4), IMAGES)(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-4)


def test_stages_do_not_become_smaller():
    with pytest.raises(InputError, match=r"\(1, 3\)"):
        deepen(classifier("A"), (1, 3))
    for sizes in (5, (2.0, 3.5), "23", (2, 3, 4)):
        with pytest.raises(InputError, match="stages of"):
            deepen(classifier("A"), sizes)
    with pytest.raises(InputError, match="cannot pass on 12 channels"):
        deepen(classifier(None, True), (3, 3))
