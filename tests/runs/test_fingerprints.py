"""Fingerprints against NumPy, array by array: checkpoints are recognised by these from one version to the next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.runs.fingerprints import all_finite, check_fingerprints, fingerprint
from slow_hash import finalised

RANDOM = np.random.default_rng(0)
TREE = {
    "kernels": [
        RANDOM.normal(size=(3, 3, 2, 4)).astype(np.float32),
        # Too many to be hashed with the others.
        RANDOM.normal(size=(3, 100, 50)).astype(np.float32),
        RANDOM.normal(size=5).astype(np.float32),
    ],
    "bias": RANDOM.normal(size=7).astype(np.float32),
    "skipped": np.array([True, False, True]),
    "step": np.int32(41),
    "mean": RANDOM.normal(size=(100, 90)).astype(np.float32),
}


def slow_fingerprint(tree):
    total = 0
    for number, array in enumerate(jax.tree.leaves(tree)):
        bits = array.astype(np.uint32) if array.dtype == bool else np.asarray(array).reshape(-1).view(np.uint32)
        for place, word in enumerate(bits.reshape(-1).tolist()):
            total += finalised(word ^ finalised(place * 0x9E3779B9 + number))
    return total % 2**32


def test_fingerprints_are_those_of_a_slow_version():
    assert int(fingerprint(TREE)) == slow_fingerprint(TREE)
    assert bool(all_finite(TREE))
    check_fingerprints({"training": TREE}, {"variables": 0, "training": slow_fingerprint(TREE)})


def test_fingerprints_of_64_bits():
    with jax.enable_x64(True):
        tree = [RANDOM.normal(size=3), RANDOM.normal(size=(2, 2))]
        assert int(fingerprint(tree)) == slow_fingerprint(tree)


@pytest.mark.parametrize("path", [("kernels", 0), ("kernels", 1), ("bias",), ("skipped",), ("mean",)], ids=str)
def test_one_other_bit_is_another_fingerprint(path):
    tree = jax.tree.map(np.copy, TREE)
    array = tree
    for name in path:
        array = array[name]
    array.reshape(-1).view(np.uint8)[0] ^= 1
    assert int(fingerprint(tree)) != int(fingerprint(TREE))
    with pytest.raises(ValueError, match=r"its arrays are not those that were saved \(training\)"):
        check_fingerprints({"training": tree}, {"training": int(fingerprint(TREE))})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["bias", "mean"])
def test_what_is_not_finite_is_seen(name, value):
    array = TREE[name].copy()
    array.reshape(-1)[1] = value
    assert not all_finite(TREE | {name: jnp.asarray(array)})


NARROW = ["bfloat16", "float16", "int8", "uint8", "int16", "float8_e4m3fn", "float8_e5m2", "uint4"]


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_numbers_are_words_of_their_own(dtype):
    array = np.arange(5).astype(jnp.dtype(dtype))
    bits = array.view(f"uint{8 * array.itemsize}")
    tree = {"first": np.ones(2, np.float32), "narrow": array}
    assert int(fingerprint(tree)) == slow_fingerprint({"first": tree["first"], "narrow": bits.astype(np.uint32)})
    assert all_finite(tree)


def test_empty_arrays_scalars_keys_and_complex_numbers():
    key = jax.random.key(3)
    tree = {"none": np.zeros((0, 4), np.float32), "step": np.float32(3), "bad": np.False_}
    assert int(fingerprint(tree)) == slow_fingerprint({name: np.asarray(leaf) for name, leaf in tree.items()})
    assert int(fingerprint({"key": key})) == slow_fingerprint({"key": np.asarray(jax.random.key_data(key))})
    assert int(fingerprint({"key": key})) != int(fingerprint({"key": jax.random.key(4)}))
    assert int(fingerprint([np.complex64(1 + 2j)])) == slow_fingerprint([np.array([1, 2], np.float32)])
    assert int(fingerprint({})) == 0
    assert all_finite({})
    assert all_finite(tree | {"key": key})
