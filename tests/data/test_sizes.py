"""Batches at the extremes: of one image, of one image's data set, larger than the data set, and after 2**32 images."""

import contextlib
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from numbered import COUNT, HEIGHT, whole

from resnet_jax.data import stream
from resnet_jax.data.batch import batch_indices, shuffled

CROPPING = stream.Cropping("random_scale", (HEIGHT, HEIGHT), 32)


def labels_of(photographs, batch_size, start, steps=3, host=(0, 1)):
    """The labels that the stream's batches hold, which are ten times the indices: (steps, batch_size)."""
    batches = stream.TrainBatches(
        photographs, CROPPING, seed=0, batch_size=batch_size, start=start, num_workers=0, host=host
    )
    with contextlib.closing(batches):
        return np.stack([batch.labels for batch in itertools.islice(batches, steps)])


def order_of(photographs, count, first=0):
    """Which photographs an endless run shows, one by one, as batches of four hold them."""
    steps = -(-count // 4)
    return labels_of(photographs, 4, first // 4, steps).ravel()[:count]


@pytest.mark.parametrize("start", [0, 7])
def test_batches_of_one_photograph_are_those_of_four_cut_up(start):
    expected = order_of(whole(), start + 3)[start:]
    np.testing.assert_array_equal(labels_of(whole(), 1, start).ravel(), expected)


def test_a_data_set_of_one_photograph():
    assert labels_of(whole(1), 1, 5).tolist() == [[0]] * 3
    assert labels_of(whole(1), 4, 0).tolist() == [[0] * 4] * 3


def test_as_many_hosts_as_photographs_in_a_batch():
    parts = [labels_of(whole(), 4, 2, host=(host, 4)) for host in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), labels_of(whole(), 4, 2))


def test_far_into_a_run_of_large_batches():
    """600,000 iterations of 8,192: the places are beyond 2**32, and every epoch is still whole."""
    first = 600_000 * 8_192
    assert first > 2**32
    count = 1_000
    shown = np.concatenate([stream.batch_indices(0, step, 8_192, count) for step in (599_999, 600_000)])
    whole_epochs = shown[-(first - 8_192) % count :][: 15 * count].reshape(15, count)
    np.testing.assert_array_equal(np.sort(whole_epochs, 1), np.tile(np.arange(count), (15, 1)))
    np.testing.assert_array_equal(
        labels_of(whole(), 4, first),
        10 * np.stack([stream.batch_indices(0, step, 4, COUNT) for step in range(first, first + 3)]),
    )


def test_another_step_is_gone_to_whatever_was_read_before():
    expected = labels_of(whole(), 4, 0, 12)
    with contextlib.closing(
        stream.TrainBatches(whole(), CROPPING, seed=0, batch_size=4, start=3, num_workers=0)
    ) as batches:
        for steps in ([3, 4], [5], [2, 3], [11], [11]):
            batches.go_to(steps[0])
            for step in steps:
                assert batches.step == step
                np.testing.assert_array_equal(next(batches).labels, expected[step])


def rows_by_hand(seed, step, batch_size, count):
    """The places of a batch in Python's own whole numbers."""
    places = [divmod(place, count) for place in range(step * batch_size, (step + 1) * batch_size)]
    epochs, positions = (jnp.array([place[i] % 2**32 for place in places], jnp.uint32) for i in range(2))
    return shuffled(positions, epochs, count, seed)


@pytest.mark.parametrize(
    ("step", "batch_size", "count"),
    [
        (0, 1, 1),
        (3, 4, 1),
        (7, 5, 13),
        (100, 64, 1437),
        (400, 128, 50_000),
        (33_554_431, 128, 50_000),  # the last batch below 2**32
        (33_554_432, 128, 50_000),
        (600_000, 8_192, 50_000),
        (2**31 - 1, 64, 1437),
        (2**31 - 1, 3 * 1437 + 5, 1437),
    ],
)
def test_rows_of_a_batch_are_those_of_unbounded_numbers(step, batch_size, count):
    found = batch_indices(3, jnp.int32(step), batch_size, count)
    np.testing.assert_array_equal(found, rows_by_hand(3, step, batch_size, count))


def test_batches_whose_places_cannot_be_counted_are_refused():
    with pytest.raises(ValueError, match="batches of 70000 out of 80000 examples have positions beyond"):
        batch_indices(0, 0, 70_000, 80_000)
