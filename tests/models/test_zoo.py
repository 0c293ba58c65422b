"""The named networks: their tables in the paper, and the messages about names that do not exist."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.models.zoo import family_and_depth


def parameters(name, **fields):
    model = models.create(name, **fields)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# Computed by hand from table 1; 18, 50 and 152 with option B are also torchvision's.
@pytest.mark.parametrize(
    ("depth", "a", "b", "c"),
    [
        (18, 11_515_688, 11_689_512, 12_043_816),
        pytest.param(34, 21_623_848, 21_797_672, 22_716_840, marks=pytest.mark.slow),
        (50, 22_780_456, 25_557_032, 40_128_552),
        pytest.param(101, 41_772_584, 44_549_160, 76_981_288, marks=pytest.mark.slow),
        pytest.param(152, 57_416_232, 60_192_808, 107_335_720, marks=pytest.mark.slow),
    ],
)
def test_parameters_on_imagenet(depth, a, b, c):
    counts = {option: parameters(f"resnet{depth}", shortcut=option) for option in "ABC"}
    assert counts == {"A": a, "B": b, "C": c}
    assert parameters(f"plain{depth}") == a
    assert parameters(f"resnet{depth}") == b
    assert parameters(f"resnet{depth}", bottleneck_stride="3x3") == b


@pytest.mark.parametrize(
    ("depth", "a", "b", "c"),
    [
        (20, 269_722, 272_474, 283_962),
        pytest.param(32, 464_154, 466_906, 489_594, marks=pytest.mark.slow),
        pytest.param(44, 658_586, 661_338, 695_226, marks=pytest.mark.slow),
        pytest.param(56, 853_018, 855_770, 900_858, marks=pytest.mark.slow),
        pytest.param(110, 1_727_962, 1_730_714, 1_826_202, marks=pytest.mark.slow),
        (1202, 19_421_274, 19_424_026, 20_538_714),
    ],
)
def test_parameters_on_cifar(depth, a, b, c):
    counts = {option: parameters(f"cifar_resnet{depth}", shortcut=option) for option in "ABC"}
    assert counts == {"A": a, "B": b, "C": c}
    assert parameters(f"cifar_plain{depth}") == a
    assert parameters(f"cifar_resnet{depth}") == a
    assert parameters(f"cifar_resnet{depth}", num_classes=100) == a + 5_850


def test_names_say_how_many_weighted_layers_there_are():
    for name in (*models.NAMES, "cifar_resnet8", "cifar_plain14"):
        model = models.create(name)
        if not isinstance(model, models.ResNet):
            continue
        layers = 1 + sum(model.stage_sizes) * (3 if model.bottleneck else 2) + 1
        assert layers == int(re.findall(r"\d+", name)[0]), name
        assert (model.shortcut is None) == ("plain" in name), name
        assert (model.gates is not None) == ("highway" in name), name
        assert model.preactivation == ("preact" in name), name
        assert "{}{}".format(*family_and_depth(model)) == name


def test_names_are_those_of_the_paper():
    expected = {f"{kind}{depth}" for kind in ("resnet", "plain") for depth in (18, 34, 50, 101, 152)}
    expected |= {f"cifar_{kind}{depth}" for kind in ("resnet", "plain") for depth in (20, 32, 44, 56, 110, 1202)}
    # And those of what it is compared with.
    expected |= {f"preact{depth}" for depth in (18, 34, 50, 101, 152)} | {"vgg16", "vgg19", "highway19"}
    expected |= {f"cifar_{kind}{depth}" for kind in ("preact", "highway") for depth in (20, 32, 44, 56, 110, 1202)}
    assert set(models.NAMES) == expected
    assert len(models.NAMES) == len(expected)


def test_fields_and_classes_are_passed_on():
    model = models.create(
        "resnet50", num_classes=3, shortcut="C", dtype=jnp.bfloat16, bottleneck_stride="3x3", bn_group_size=32
    )
    assert (model.num_classes, model.shortcut, model.dtype) == (3, "C", jnp.bfloat16)
    assert (model.bottleneck_stride, model.bn_group_size) == ("3x3", 32)
    assert (models.create("resnet50").num_classes, models.create("cifar_resnet20").num_classes) == (1000, 10)
    model = models.create("cifar_resnet20", num_classes=np.int64(3))
    assert model == models.create("cifar_resnet20", num_classes=3)
    assert type(model.num_classes) is int
    for name, field, message in (
        (
            "resnet50",
            "bottleneck_strides",
            "'resnet50' has no field 'bottleneck_strides' .*did you mean 'bottleneck_str",
        ),
        ("resnet18", "depth", "'resnet18' has no field 'depth' to set: it has .*block_layers"),
        ("resnet18", "stem", "no field 'stem' to set"),
        ("vgg16", "gates", "it has hidden, dropout, dtype$"),
        ("highway19", "depth", "it has layers, widths, gates, dtype$"),
    ):
        with pytest.raises(TypeError, match=message):
            models.create(name, **{field: 3})


def test_blocks_of_one_and_three_layers_have_the_depth_of_the_name():
    for name, layers, stages in (
        ("cifar_resnet20", 1, (6, 6, 6)),
        ("cifar_plain11", 1, (3, 3, 3)),
        ("cifar_resnet20", 3, (2, 2, 2)),
        ("resnet34", 1, (6, 8, 12, 6)),
    ):
        model = models.create(name, block_layers=layers)
        assert (model.stage_sizes, model.block_layers) == (stages, layers)
        assert "{}{}".format(*family_and_depth(model)) == name
    # Where no shortcut projects, all blocks have the parameters of the plain twin.
    assert {parameters("cifar_resnet20", block_layers=layers) for layers in (1, 2, 3)} == {269_722}


MISTAKES = [
    ("resent50", {}, "'resent50': did you mean 'resnet50'"),
    ("cifar-resnet20", {}, "did you mean 'cifar_resnet20'"),
    ("ResNet50", {}, "did you mean 'resnet50'"),
    ("resnet_20", {}, "'resnet_20': did you mean 'cifar_resnet20'"),
    ("resnet-20", {}, "did you mean 'cifar_resnet20'"),
    ("ResNet20", {}, "did you mean 'cifar_resnet20'"),
    ("resnet20", {}, "asks for 20: did you mean 'cifar_resnet20'"),
    ("resnet_11", {}, "'resnet_11': models are"),
    ("resnet11", {"block_layers": 1}, "did you mean 'cifar_resnet11'"),
    ("ResNet-50", {}, "did you mean 'resnet50'"),
    ("CIFAR_ResNet8", {}, "did you mean 'cifar_resnet8'"),
    ("VGG-16", {}, "did you mean 'vgg16'"),
    ("resnet50v2", {}, "did you mean 'resnet50'"),
    ("inception", {}, r"unknown model 'inception': models are resnet18, .*cifar_plain1202.* 6n\+2 \(3n\+2 with bl"),
    ("", {}, "unknown model"),
    ("resnet42", {}, "18, 34, 50, 101, 152 layers, but 'resnet42' asks for 42"),
    ("plain20", {}, "'plain20' asks for 20"),
    ("highway20", {}, "unknown model 'highway20': did you mean 'cifar_highway20'"),
    ("vgg11", {}, "unknown model 'vgg11': did you mean 'vgg1"),
    ("vgg16", {"shortcut": "A"}, "'vgg16' has no shortcuts of the kinds A, B and C, but shortcut 'A'"),
    ("cifar_resnet21", {}, r"6n\+2 .* asks for 21: the nearest depth is 20"),
    ("cifar_plain61", {}, "the nearest depth is 62"),
    ("cifar_resnet2", {}, "the nearest depth is 8"),
    ("cifar_resnet32", {"block_layers": 3}, r"with blocks of 3 layers have 9n\+2 layers, .* the nearest depth is 29"),
    ("cifar_resnet20", {"block_layers": 4}, r"block_layers is 4, but it must be one of \(1, 2, 3\)"),
    ("resnet18", {"block_layers": 3}, "the stages of 'resnet18' do not consist of blocks of 3 layers"),
    ("resnet50", {"block_layers": 1}, "block_layers=1 is for basic blocks: a bottleneck has three of its own"),
    ("resnet50", {"shortcut": "D"}, "unknown shortcut 'D': it is A .* B .* C"),
    ("cifar_resnet20", {"shortcut": "b"}, "unknown shortcut 'b'"),
    ("plain34", {"shortcut": "B"}, "'plain34' is a plain network .* shortcut 'B'"),
    ("cifar_plain20", {"shortcut": "A"}, "has no shortcuts"),
    ("resnet18", {"num_classes": True}, "num_classes is True, but it must be a whole number"),
    ("resnet18", {"num_classes": np.int64(0)}, "at least 1"),
]


def test_mistakes_are_explained():
    for name, fields, message in MISTAKES:
        with pytest.raises(ValueError, match=message):
            models.create(name, **fields)
