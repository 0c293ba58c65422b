"""The tensors of one network among those of a file, whatever stands before and after their names."""

import numpy as np
import pytest

from resnet_jax.errors import InputError
from resnet_jax.interop.torch_weights import below_prefix, with_fc


def backbone():
    return {
        "conv1.weight": np.zeros((16, 3, 3, 3)),
        "bn1.num_batches_tracked": np.zeros(()),
        "layer1.0.conv1.weight": np.zeros((16, 16, 3, 3)),
        "layer3.0.shortcut.0.weight": np.zeros((64, 32, 1, 1)),
    }


def network(classes=10):
    return backbone() | {"fc.weight": np.zeros((classes, 64)), "fc.bias": np.zeros(classes)}


def behind(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "backbone.",
        "encoder.",
        "state_dict.module._orig_mod.",
        "model_ema.module.",
        "a.name.of.my.own.",
    ],
)
def test_one_network_is_found_behind_any_prefix(prefix):
    notes = []
    found = below_prefix(behind(prefix, network()) | {"n_averaged": np.zeros(())}, log=notes.append)
    assert found.keys() == network().keys()
    assert notes == []


def test_tensors_beside_the_network_are_named():
    extra = {"criterion.weight": np.zeros(10), "metric.total": np.zeros(())}
    notes = []
    found = below_prefix(behind("model.", network()) | extra, log=notes.append)
    assert found.keys() == network().keys()
    assert notes == ["left out, as no part of the network: criterion.weight, metric.total"]


@pytest.mark.parametrize("average", ["model_ema.module.", "state_dict_ema.", "ema.", "swa.module.", "averaged."])
def test_of_a_network_and_its_average_the_average_is_taken_and_said(average):
    both = behind("model.", network(3)) | behind(average, network(5))
    notes = []
    found = below_prefix(both, log=notes.append)
    (note,) = notes
    assert found["fc.bias"].shape == (5,)
    assert "the average was taken" in note
    assert average.rstrip(".") in note
    for asked in ("model", "model."):
        assert below_prefix(both, asked)["fc.bias"].shape == (3,)
    assert below_prefix(both, average.partition(".")[0])["fc.bias"].shape == (5,)


def test_of_two_equals_the_user_chooses():
    both = behind("student.", network(3)) | behind("teacher.", network(5))
    with pytest.raises(InputError, match="there are 2 networks: choose the prefix of one of them: student, teacher"):
        below_prefix(both)
    assert below_prefix(both, "teacher")["fc.bias"].shape == (5,)
    with pytest.raises(InputError, match="not one network with the prefix 'generator': the prefixes are student"):
        below_prefix(both, "generator")


@pytest.mark.parametrize("name", ["fc.1", "fc.0", "fc.linear", "last_linear", "classifier", "head.fc", "linear"])
def test_a_classifier_of_one_linear_layer_is_plain(name):
    head = {f"{name}.weight": np.ones((10, 64)), f"{name}.bias": np.ones(10)}
    notes = []
    found = with_fc(backbone() | head, notes.append)
    assert found["fc.weight"].all()
    assert found["fc.bias"].all()
    assert "layer3.0.downsample.0.weight" in found
    assert "bn1.num_batches_tracked" not in found
    assert notes == ([] if name == "linear" else [f"the classifier was found as {name}"])


@pytest.mark.parametrize(
    "more",
    [
        {"fc.3.weight": np.zeros((10, 32)), "fc.3.bias": np.zeros(10)},
        {"fc.1.weight": np.zeros(32), "fc.1.running_mean": np.zeros(32)},
    ],
)
def test_a_classifier_of_several_layers_is_refused_with_its_layers(more):
    head = {"fc.0.weight": np.zeros((32, 64)), "fc.0.bias": np.zeros(32)}
    with pytest.raises(
        InputError, match=r"must be one linear layer, and these weights have fc\.0\.bias \(32,\), fc\.0"
    ):
        with_fc(backbone() | head | more)


def test_a_headless_backbone_is_called_one():
    with pytest.raises(InputError, match=r"fc\.weight of shape \(classes, 64\).*headless.*there are head\.2\.weight"):
        below_prefix(behind("backbone.", backbone()) | {"head.2.weight": np.zeros((3, 64))})


def test_a_network_without_a_prefix_beside_its_average():
    tensors = network() | behind("ema.", {name: tensor + 1 for name, tensor in network().items()})
    for prefix, value in (("", 0), ("ema", 1), (None, 1)):
        notes = []
        found = below_prefix(tensors, prefix, notes.append)
        assert found.keys() == network().keys()
        assert all((tensor == value).all() for tensor in found.values())
        assert not any("left out" in note for note in notes)
