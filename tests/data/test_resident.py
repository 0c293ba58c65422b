import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.batch import shuffled
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.resident import Augmentation, eval_batch, train_batch
from resnet_jax.data.small import Split
from slow_hash import finalised

shuffle = jax.jit(shuffled, static_argnums=2)


def orders(count, epochs, seed=0, first=0):
    """The orders of some epochs: (epochs, count)."""
    epoch, position = np.meshgrid(np.arange(first, first + epochs), np.arange(count), indexing="ij")
    return np.asarray(
        shuffle(jnp.asarray(position, jnp.uint32), jnp.asarray(epoch, jnp.uint32), count, jnp.uint32(seed))
    )


def split(count):
    """Examples that carry their own number in the first pixel and in the label."""
    images = np.zeros((count, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(count) % 256
    return Split(jnp.asarray(images), jnp.arange(count, dtype=jnp.int32))


PLAIN = Preprocessing(jnp.zeros((2, 2, 1)))


def batch(data, step, size, seed=0, augmentation=Augmentation(0, False)):  # noqa: B008 (a tuple)
    return jax.jit(lambda step: train_batch(data, PLAIN, augmentation, seed, step, size))(jnp.asarray(step))


@pytest.mark.parametrize("count", [1, 2, 7, 1437, 50_000])
def test_every_epoch_is_a_permutation(count):
    for order in orders(count, 3 if count == 50_000 else 50, first=1_000):
        assert np.array_equal(np.sort(order), np.arange(count))


def slowly_shuffled(index, epoch, count, seed):
    """Where one position of an epoch's order points: 48 rounds of a swap-or-not shuffle."""
    word = finalised(finalised(epoch) + seed)
    for turn in range(48):
        key = finalised(word + turn * 0x9E3779B9)
        partner = (key % count - index) % count
        if finalised(max(index, partner) ^ finalised(key ^ 0x5BF03635)) & 1:
            index = partner
    return index


@pytest.mark.parametrize(("count", "seed"), [(7, 0), (1437, 5), (50_000, 2**32 - 1)])
def test_orders_are_those_of_every_version(count, seed):
    """A run that an older version began goes on with the images that it would have shown."""
    found = orders(count, 2, seed, first=3)
    for place in range(0, count, max(1, count // 50)):
        assert [row[place] for row in found] == [slowly_shuffled(place, epoch, count, seed) for epoch in (3, 4)]


def test_epochs_and_seeds_differ():
    several = np.concatenate([orders(1437, 20, seed) for seed in (0, 1, 2**32 - 1)])
    assert len({order.tobytes() for order in several}) == 60
    # Two random orders agree in one place on average, and in 12 or more once in 10^9.
    agreements = (several[:, None] == several[None]).sum(-1)
    np.fill_diagonal(agreements, 0)
    assert agreements.max() < 12


@pytest.mark.parametrize("count", [2, 3, 7])
def test_every_position_gets_every_example_as_often(count):
    epochs = 20_000
    drawn = orders(count, epochs)
    table = np.stack([np.bincount(column, minlength=count) for column in drawn.T])
    # Every row and column has the same sum, which leaves (count - 1)^2 degrees of freedom.
    chi_squared = ((table - epochs / count) ** 2).sum() * (count - 1) / epochs
    degrees = (count - 1) ** 2
    assert chi_squared < degrees + 4 * np.sqrt(2 * degrees) + 8


def test_all_orders_of_few_examples_are_as_frequent():
    epochs = 24_000
    _, counts = np.unique(orders(4, epochs, seed=5), axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom exceeds 58 once in 10,000.
    assert ((counts - 1000) ** 2).sum() / 1000 < 58


def statistics(drawn):
    """Correlations of neighbouring positions, of consecutive epochs, of value and position; and fixed points."""

    def correlation(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    return np.array(
        [
            correlation(drawn[:, 1:], drawn[:, :-1]),
            correlation(drawn[1:], drawn[:-1]),
            correlation(drawn, np.broadcast_to(np.arange(drawn.shape[1]), drawn.shape)),
            (drawn == np.arange(drawn.shape[1])).sum(1).mean(),
            (np.abs(np.diff(drawn)) == 1).sum(1).mean(),
        ]
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_orders_are_as_random_as_numpys(seed):
    count, epochs = 500, 400
    numpys = np.stack(
        [
            statistics(np.stack([np.random.default_rng((block, epoch)).permutation(count) for epoch in range(epochs)]))
            for block in range(8)
        ]
    )
    ours = statistics(orders(count, epochs, seed))
    # Correlations that are close to 0, and statistics that are as near to their expectation as NumPy's.
    assert np.abs(ours[:3]).max() < 0.01
    assert (np.abs(ours - numpys.mean(0)) < 8 * numpys.std(0)).all(), (ours, numpys.mean(0), numpys.std(0))


@pytest.mark.parametrize(("count", "size"), [(10, 4), (7, 7), (5, 8)])
def test_an_epoch_shows_each_example_once_also_when_batches_straddle_epochs(count, size):
    data, epochs = split(count), 6
    steps = -(-count * epochs // size)
    labels = jax.jit(lambda step: batch(data, step, size).labels)
    seen = np.concatenate([labels(step) for step in range(steps)])
    for epoch in seen[: count * epochs].reshape(epochs, count):
        assert np.array_equal(np.sort(epoch), np.arange(count))


def test_images_stay_with_their_labels():
    drawn = batch(split(100), 3, 30)
    assert np.array_equal(drawn.images[:, 0, 0, 0], drawn.labels)
    assert drawn.weights.tolist() == [1.0] * 30
    assert drawn.images.dtype == jnp.float32


def test_a_batch_is_a_function_of_seed_and_step():
    data = Split(jnp.arange(200 * 64, dtype=jnp.uint8).reshape(200, 8, 8, 1), jnp.arange(200, dtype=jnp.int32))
    plain = Preprocessing(jnp.zeros((8, 8, 1)))

    def make(step, seed=0):
        return train_batch(data, plain, Augmentation(2, True), seed, jnp.asarray(step), 32)

    compiled = jax.jit(make)
    first = [compiled(step) for step in range(5)]
    for step in (4, 0, 2):
        jax.tree.map(np.testing.assert_array_equal, compiled(step), first[step])
    jax.tree.map(np.testing.assert_array_equal, make(4), first[4])
    assert not np.array_equal(make(0, seed=1).labels, first[0].labels)
    assert not np.array_equal(make(0).images, first[1].images)


def test_augmentation_differs_between_steps_and_seeds():
    data = Split(jnp.arange(36, dtype=jnp.uint8).reshape(1, 6, 6, 1), jnp.zeros(1, jnp.int32))
    crops = [
        train_batch(data, Preprocessing(jnp.zeros((6, 6, 1))), Augmentation(3, True), seed, jnp.asarray(step), 8)
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({np.asarray(crop.images).tobytes() for crop in crops}) == 3


@pytest.mark.parametrize(("count", "size"), [(10, 4), (12, 4), (5, 8), (1, 3), (360, 120)])
def test_an_evaluation_counts_each_example_once(count, size):
    data = split(count)
    make = jax.jit(lambda index: eval_batch(data, PLAIN, index, size))
    batches = [make(jnp.asarray(i)) for i in range(-(-count // size))]
    assert {len(one.labels) for one in batches} == {size}
    labels = np.concatenate([one.labels for one in batches])
    weights = np.concatenate([one.weights for one in batches])
    assert labels[weights == 1].tolist() == list(range(count))
    assert set(weights.tolist()) <= {0.0, 1.0}
    assert all(np.array_equal(one.images[:, 0, 0, 0], one.labels % 256) for one in batches)
