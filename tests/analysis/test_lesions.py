"""Removed and swapped blocks against networks that were made without them, or from arrays in another order."""

import jax
import numpy as np
import pytest
from inside import IMAGES, LABELS, classifier

from resnet_jax.analysis import block_names, deepen, lesion_errors, remove_blocks, swap_blocks
from resnet_jax.data import Split
from resnet_jax.errors import InputError
from resnet_jax.models.gates import Gates
from resnet_jax.models.layers import zero_pad_shortcut


def rearranged(network, order):
    """The scanned blocks of stage 2 in another order, or fewer of them."""
    sizes = (2, 1 + len(order))
    variables = {
        collection: {
            **tree,
            "stage2": {**tree["stage2"], "rest": jax.tree.map(lambda a: a[order], tree["stage2"]["rest"])},
        }
        for collection, tree in jax.device_get(network.variables).items()
    }
    return network.replace(model=network.model.clone(stage_sizes=sizes), variables=variables)


@pytest.mark.parametrize("shortcut", ["A", None])
def test_a_removed_block_is_as_if_it_had_never_been(shortcut):
    network = classifier(shortcut)
    without = remove_blocks(network, "stage2/block2")
    assert np.asarray(without(IMAGES)) == pytest.approx(
        np.asarray(rearranged(network, [1])(IMAGES)), rel=1e-5, abs=1e-5
    )
    assert not np.allclose(without(IMAGES), network(IMAGES), atol=1e-2)
    assert block_names(network.model) == [f"stage{s}/block{b}" for s, b in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3))]


@pytest.mark.parametrize("shortcut", ["A", None])
def test_where_the_maps_shrink_option_a_is_left(shortcut):
    network = classifier(shortcut)
    without = remove_blocks(network, ["stage2/block1", "stage2/block2", "stage2/block3"])
    maps = network.model.apply(without.variables, network.preprocessing(IMAGES), train=False, method="stages")
    assert np.array_equal(maps["stage2"], zero_pad_shortcut(maps["stage1"], 4, 2, "end"))


@pytest.mark.slow
def test_blocks_with_preactivation_can_be_removed_and_added():
    network = classifier("A", preactivation=True)
    without = remove_blocks(network, "stage2/block2")
    assert np.allclose(without(IMAGES), rearranged(network, [1])(IMAGES), rtol=1e-5, atol=1e-5)
    # Projections of preactivation have no batch norm.
    for given in (network, classifier("C", preactivation=True)):
        np.testing.assert_allclose(deepen(given, (3, 4))(IMAGES), given(IMAGES), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="with gates"):
        remove_blocks(network.replace(model=network.model.clone(gates=Gates())), "stage2/block2")


@pytest.mark.slow
def test_a_projection_stays_and_bottlenecks_lose_a_block():
    network = classifier("B", True)
    without = remove_blocks(network, "stage2/block3")
    assert np.asarray(without(IMAGES)) == pytest.approx(
        np.asarray(rearranged(network, [0])(IMAGES)), rel=1e-5, abs=1e-5
    )
    first = remove_blocks(network, "stage2/block1").variables["params"]["stage2"]["first"]
    assert np.array_equal(
        first["shortcut"]["conv"]["kernel"],
        network.variables["params"]["stage2"]["first"]["shortcut"]["conv"]["kernel"],
    )
    with pytest.raises(InputError, match="cannot pass on 16 channels"):
        remove_blocks(classifier(None, True), "stage2/block2")


def test_swapped_blocks_are_arrays_in_another_order():
    network = classifier("A")
    swapped = swap_blocks(network, "stage2/block2", "stage2/block3")
    assert np.array_equal(swapped(IMAGES), rearranged(network, [1, 0])(IMAGES))
    assert not np.allclose(swapped(IMAGES), network(IMAGES), atol=1e-2)
    back = swap_blocks(swapped, "stage2/block3", "stage2/block2")
    assert jax.tree.all(jax.tree.map(np.array_equal, back.variables, network.variables))
    with pytest.raises(InputError, match="other shapes"):
        swap_blocks(network, "stage1/block1", "stage2/block2")
    with pytest.raises(InputError, match="no block 3"):
        remove_blocks(network, 3)
    with pytest.raises(InputError, match="no block 'stage2/block4'"):
        swap_blocks(network, "stage2/block4", "stage2/block2")


def test_lesion_errors_are_counts():
    network = classifier("A")
    found = lesion_errors(network, Split(IMAGES, np.int32(LABELS)))
    assert list(found) == block_names(network.model)
    for name, error in found.items():
        wrong = np.argmax(remove_blocks(network, name)(IMAGES), 1) != LABELS
        assert error == pytest.approx(wrong.mean()), name
