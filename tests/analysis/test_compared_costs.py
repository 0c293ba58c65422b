"""The costs of what the paper compares with: VGG, highway networks, blocks in other orders, and the two of figure 5."""

import pytest

from resnet_jax import models
from resnet_jax.analysis import layer_costs, summary
from resnet_jax.models import create

# Parameters and multiply-adds of the CIFAR network of 20 layers.
RESNET20 = (269_722, 40_551_040)
NOT_SAID = {"parameters": None, "multiply_adds": None}


def test_networks_that_the_paper_compares_with():
    """Section 3.3: 15.3 and 19.6 billion multiply-adds of VGG, the first without the fully connected layers."""
    for name, parameters, convolutions, total, stated in (
        ("vgg16", 138_357_544, 15.3466, 15.4703, 15.3e9),
        ("vgg19", 143_667_240, 19.5084, 19.6321, 19.6e9),
    ):
        costs = summary(name)
        kinds = {layer.kind for layer in layer_costs(create(name), 224)}
        assert kinds == {"conv", "max_pool", "fc"}
        assert costs["parameters"] == parameters
        fully = sum(stage["multiply_adds"] for stage in costs["stages"] if stage["name"].startswith("fc"))
        assert round((costs["multiply_adds"] - fully) / 1e9, 4) == convolutions
        assert round(costs["multiply_adds"] / 1e9, 4) == total
        assert costs["paper"] == {"parameters": None, "multiply_adds": stated}
        assert summary(create(name), 256)["paper"]["multiply_adds"] is None
        # The deepest network of the paper costs less.
        assert summary("resnet152")["multiply_adds"] < total * 1e9
    highway = summary("highway19")
    assert (highway["parameters"], highway["image_size"]) == (2_256_838, 32)
    # Table 6 has another one, with fully connected layers, whose 2.3M are of that.
    assert highway["paper"] == NOT_SAID


def test_the_papers_figures_stand_beside_its_own_networks_only():
    assert summary("cifar_plain20")["paper"]["parameters"] is None
    assert summary(create("cifar_resnet20", padding="wrap"))["paper"]["parameters"] == 0.27e6
    for other in (
        create("cifar_resnet20", block_layers=1),
        create("resnet34", block_layers=1),
        # As deep, and of as many widths.
        models.ResNet((2, 3, 4), (16, 32, 64), False, "cifar", 10, "A"),
        models.ResNet((3, 3, 3), (16, 32, 64), False, "imagenet", 10, "A"),
        models.ResNet((3, 4, 3, 6), (64, 128, 256, 512), False, "imagenet", 1000, "A"),
    ):
        assert summary(other)["paper"] == NOT_SAID


def test_images_of_which_pooling_leaves_nothing_are_refused():
    with pytest.raises(ValueError, match="of a map of 1 x 1 pixels 2x2 pooling leaves nothing: give larger images"):
        summary("vgg16", 16)
    with pytest.raises(ValueError, match="of a map of 1 x 1 pixels 2x2 pooling leaves nothing"):
        summary("highway19", 2)
    assert summary("vgg16", 32)["stages"][4]["output"] == [1, 1, 512]


def test_networks_whose_layers_would_be_miscounted_are_refused():
    with pytest.raises(ValueError, match="costs are counted of ResNet, VGG and HighwayNet, not of DeepMLP"):
        summary(models.DeepMLP(10, 4, 3), 4)


def test_blocks_in_other_orders_are_counted_block_by_block():
    """A gate is a convolution, and pre-activation ends with a batch norm that belongs to no block."""
    gated, usual = (layer_costs(create(f"cifar_{kind}8"), 32) for kind in ("highway", "resnet"))
    gates = [layer for layer in gated if "gate" in layer.name]
    assert [layer for layer in gated if layer not in gates] == usual
    assert [layer.multiply_adds for layer in gates] == [1024 * 16 * 16, 256 * 16 * 32, 64 * 32 * 64]
    before = summary("cifar_preact20")
    assert [stage["blocks"] for stage in before["stages"]] == [0, 3, 3, 3, 0]
    assert before["parameters"] == RESNET20[0]
    assert before["multiply_adds"] == RESNET20[1]
    assert before["paper"] == NOT_SAID
    single = layer_costs(create("cifar_resnet20", block_layers=1), 32)
    assert sum(layer.multiply_adds for layer in single) == RESNET20[1]
    assert len({layer.name.rsplit("/", 1)[0] for layer in single if "block" in layer.name}) == 18


def test_a_bottleneck_costs_as_much_as_a_basic_block():
    """Figure 5: 64 channels through two 3x3 convolutions, and 256 through a bottleneck."""

    def weights(model, stage, block):
        layers = layer_costs(model, 224)
        return sum(e.parameters for e in layers if e.kind == "conv" and e.name.startswith(f"{stage}/{block}/"))

    assert weights(create("resnet34"), "conv2_x", "block2") == 73_728
    assert weights(create("resnet50"), "conv2_x", "block2") == 69_632
