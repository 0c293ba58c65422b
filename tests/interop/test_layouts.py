"""Whose networks weights are of: what tensors do not show."""

import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.errors import InputError
from resnet_jax.interop import torch_weights
from torch_networks import tensors_of_ours


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet18", {"stem_pool_padding": "caffe", "epsilon": 1e-3}),
        ("resnet50", {"stem_pool_padding": "caffe"}),
        ("resnet18", {"stem_pool_padding": "caffe", "shortcut": "A"}),
        ("cifar_resnet8", {"shortcut_padding": "end"}),
        ("cifar_plain8", {}),
        ("plain18", {"stem_pool_padding": "torch"}),
    ],
)
def test_from_torch_refuses_networks_that_the_weights_are_not_of(name, fields):
    """Each field that tensors do not show, where it is not torchvision's or akamaster's."""
    model = models.create(name, num_classes=3, **fields)
    tensors = tensors_of_ours(name, **fields)
    with pytest.raises(InputError, match=r"this one has .* and would compute something else"):
        torch_weights.from_torch(tensors, model)
    back = torch_weights.to_torch(torch_weights.from_torch(tensors, model, "own"))
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(back[key], tensor)


def test_layouts_by_name_and_unknown_ones():
    model, tensors = models.create("resnet18", num_classes=3), tensors_of_ours("resnet18")
    torch_weights.from_torch(tensors, model, "caffe")
    with pytest.raises(InputError, match="unknown layout 'timm': it is one of torchvision, caffe, akamaster, own"):
        torch_weights.from_torch(tensors, model, "timm")
