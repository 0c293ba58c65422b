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


@pytest.fixture(scope="module")
def old():
    return network()


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([1, 2], "class_names holds 1, but a name is text: give '1', say"),
        ([None, "b"], "class_names holds None, but a name is text"),
        ([["a"], ["b"]], r"class_names holds \['a'\], but a name is text"),
        (["a", "b", "a"], "class_names holds 'a' twice, but each class must have a name of its own"),
        ({"a"}, "class_names is {'a'}, but it must hold the name of each class, in their order: give a list"),
        ([], r"class_names is \[\], but"),
    ],
)
def test_what_is_no_name_of_a_class_is_refused(old, names, message):
    with pytest.raises(InputError, match=message):
        transfer(old, names)


@pytest.mark.parametrize("names", [list("abcde"), (0, 1, 2, 3, 4), "abcde", None])
def test_a_classifier_has_a_tuple_of_names(old, names):
    with pytest.raises(InputError, match="but it must be a tuple of names, such as"):
        old.replace(class_names=names)


def test_names_may_be_those_of_numpy(old):
    assert transfer(old, np.array(["x", "y"])).class_names == ("x", "y")


def test_live_statistics_of_nothing_frozen_are_no_effect(old, capsys):
    transfer(old, ["x", "y"], live_statistics=True)
    assert capsys.readouterr().err.startswith("live_statistics=True has no effect without freeze: ")
    transfer(old, ["x", "y"], freeze="stem", live_statistics=True)
    assert capsys.readouterr().err == ""
