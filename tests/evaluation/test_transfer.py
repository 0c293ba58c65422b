"""A new head, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models, rng
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier, transfer

SHAPE = (8, 8, 3)


def network(**fields):
    model = models.ResNet((1, 2, 1), (4, 8, 16), False, "cifar", 5, "A", **fields)
    variables = models.init(model, SHAPE, jax.random.key(0))
    return Classifier(model, variables, Preprocessing(jnp.zeros((1, 1, 3))), tuple("abcde"), SHAPE)


def test_a_new_head_is_zero_or_drawn_and_all_else_stays():
    old = network()
    for head, seed in (("zero", 0), ("normal", 0), ("normal", 1)):
        new = transfer(old, ["x", "y", "z"], seed, head=head)
        assert (new.model, new.class_names) == (old.model.clone(num_classes=3), ("x", "y", "z"))
        fc = new.variables["params"]["fc"]
        assert (fc["kernel"].shape, fc["kernel"].dtype, fc["bias"].tolist()) == ((16, 3), jnp.float32, [0, 0, 0])
        drawn = new.model.init(rng.stream(seed, "head"), jnp.zeros((1, *SHAPE)), train=False)["params"]["fc"]["kernel"]
        np.testing.assert_array_equal(fc["kernel"], drawn if head == "normal" else np.zeros((16, 3)))
        for collection in ("params", "batch_stats"):
            for part, tree in old.variables[collection].items():
                if part != "fc":
                    jax.tree.map(np.testing.assert_array_equal, new.variables[collection][part], tree)
    assert 0.005 < np.std(drawn) < 0.02


def test_what_is_frozen_is_that_of_the_call_alone():
    frozen = transfer(network(freeze="stem"), ["x", "y"], freeze="stage2", live_statistics=True)
    assert (frozen.model.freeze, frozen.model.live_statistics) == ("stage2", True)
    again = transfer(frozen, ["x", "y"])
    assert (again.model.freeze, again.model.live_statistics) == (None, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "none"}, "head is 'none', but it must be one of zero, normal"),
        ({"freeze": "stage4"}, "freeze is 'stage4', but .* are stem, stage1, stage2, stage3, backbone$"),
        ({"freeze": "fc"}, "freeze is 'fc', but"),
    ],
)
def test_what_there_is_not_is_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        transfer(network(), ["x", "y"], **fields)
