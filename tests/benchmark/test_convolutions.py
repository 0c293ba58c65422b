"""The convolutions that are timed alone are those of the network, and PyTorch's are the same."""

import json

import convolutions
import numpy as np
import pytest
from convolutions import FORMS, Convolution, measure

from resnet_jax.analysis import summary


@pytest.mark.parametrize(("model", "distinct"), [("cifar_resnet20", 6), ("resnet50", 20)])
def test_they_are_all_that_the_network_has(model, distinct):
    count, operations = convolutions.convolutions(model, None)
    costs = summary(model)
    classifier = {"cifar_resnet20": 64 * 10, "resnet50": 2048 * 1000}[model]
    assert len(count) == distinct
    assert sum(count[one] * operations[one] for one in count) == 2 * (costs["multiply_adds"] - classifier)


@pytest.mark.torch
@pytest.mark.parametrize(
    "one",
    [
        Convolution((9, 9, 3), (7, 7, 3, 8), 2, True),
        Convolution((8, 8, 4), (3, 3, 4, 8), 2, False),
        Convolution((8, 8, 4), (1, 1, 4, 8), 1, False),
    ],
)
def test_each_part_computes_what_pytorch_does(one):
    ours, theirs = (FORMS[form](one, 2) for form in ("ours", "torch"))
    y, (dx,), (dk,) = (call() for call in ours)
    their_y, their_dx, their_dk = theirs[0](), theirs[1]()[0], theirs[2]()[1]
    for own, their, order in ((y, their_y, (0, 2, 3, 1)), (dx, their_dx, (0, 2, 3, 1)), (dk, their_dk, (2, 3, 1, 0))):
        np.testing.assert_allclose(own, their.numpy().transpose(order), atol=1e-4)


@pytest.mark.slow
def test_the_sum_counts_each_as_often_as_it_is_there(capfd):
    measure(["--model=cifar_resnet14", "--batch_size=2", "--image_size=8", "--rounds=1", "--format=json"])
    found = json.loads(capfd.readouterr().out)
    rows = found["convolutions"]
    assert sum(row["times"] for row in rows if row["part"] == "forward") == 13
    assert found["step"] == pytest.approx(sum(row["times"] * row["seconds"]["median"] for row in rows))
    assert len([row for row in rows if row["part"] == "input gradient"]) == len(rows) // 3
