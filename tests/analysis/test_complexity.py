"""Counts of paper.md sections 2.3-2.5: of the real parameters, of the summary, and of the traced program."""

import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from resnet_jax.analysis import layer_costs, summary, table_rows
from resnet_jax.models import ResNet, create
from small_networks import small_classifier

# (network, shortcut): parameters. Section 2.3.
IMAGENET_PARAMETERS = {
    (18, None): 11_515_688,
    (18, "A"): 11_515_688,
    (18, "B"): 11_689_512,
    (18, "C"): 12_043_816,
    (34, None): 21_623_848,
    (34, "A"): 21_623_848,
    (34, "B"): 21_797_672,
    (34, "C"): 22_716_840,
    (50, None): 22_780_456,
    (50, "A"): 22_780_456,
    (50, "B"): 25_557_032,
    (50, "C"): 40_128_552,
    (101, None): 41_772_584,
    (101, "A"): 41_772_584,
    (101, "B"): 44_549_160,
    (101, "C"): 76_981_288,
    (152, None): 57_416_232,
    (152, "A"): 57_416_232,
    (152, "B"): 60_192_808,
    (152, "C"): 107_335_720,
}
# Section 2.4: depth: (plain and A, B, C, multiply-adds of A).
CIFAR = {
    20: (269_722, 272_474, 283_962, 40_551_040),
    32: (464_154, 466_906, 489_594, 68_862_592),
    44: (658_586, 661_338, 695_226, 97_174_144),
    56: (853_018, 855_770, 900_858, 125_485_696),
    110: (1_727_962, 1_730_714, 1_826_202, 252_887_680),
    1202: (19_421_274, 19_424_026, 20_538_714, 2_829_238_912),
}
PARAMETERS = {
    (f"resnet{depth}" if shortcut else f"plain{depth}", shortcut): count
    for (depth, shortcut), count in IMAGENET_PARAMETERS.items()
} | {
    (f"cifar_resnet{depth}" if shortcut else f"cifar_plain{depth}", shortcut): count
    for depth, (a, b, c, _) in CIFAR.items()
    for shortcut, count in ((None, a), ("A", a), ("B", b), ("C", c))
}


@functools.cache
def init_shapes(model: ResNet):
    # Images of 32 pixels suffice: no variable depends on the size.
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def counted(name: str, shortcut: str | None = None, **fields):
    return summary(create(name, shortcut=shortcut, **fields), 32 if name.startswith("cifar") else 224)


def billions(name: str, shortcut: str | None = None, **fields) -> float:
    return counted(name, shortcut, **fields)["multiply_adds"] / 1e9


# One depth of each block with each shortcut. The networks themselves are counted in models/test_zoo.py.
REAL = [key for key in PARAMETERS if re.fullmatch(r"(plain|resnet)18|resnet50|cifar_\w+?20", key[0])]


@pytest.mark.parametrize("networks", [REAL, pytest.param(PARAMETERS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_parameters(networks):
    expected = {key: PARAMETERS[key] for key in networks}
    assert {key: counted(*key)["parameters"] for key in networks} == expected


def test_cifar_closed_forms():
    for n in (1, 2, 3, 18, 200):
        name = f"cifar_resnet{6 * n + 2}"
        assert size(init_shapes(create(name))["params"]) == 97_216 * n - 21_926, name
        assert counted(name)["parameters"] == 97_216 * n - 21_926, name
        # What one more block in each stage adds: 6 convolutions of 2.36 million multiply-adds.
        assert counted(name)["multiply_adds"] == 40_551_040 + (n - 3) * 6 * 32 * 32 * 9 * 16 * 16, name


def test_cifar100_head():
    wide = create("cifar_resnet20", num_classes=100)
    assert size(init_shapes(wide)["params"]) == CIFAR[20][0] + 5_850
    assert summary(wide, 32)["parameters"] == CIFAR[20][0] + 5_850
    assert summary(wide, 32)["multiply_adds"] == CIFAR[20][3] + 90 * 64


@pytest.mark.parametrize(
    ("depth", "convs", "conv", "batch_norm", "fc"),
    [
        (18, 20, 11_166_912, 9_600, 513_000),
        (34, 36, 21_267_648, 17_024, 513_000),
        (50, 53, 23_454_912, 53_120, 2_049_000),
        (101, 104, 42_394_816, 105_344, 2_049_000),
        (152, 155, 57_992_384, 151_424, 2_049_000),
    ],
)
def test_split_of_option_b(depth, convs, conv, batch_norm, fc):
    expected = {"conv": conv, "batch_norm": batch_norm, "fc": fc}
    model = create(f"resnet{depth}", shortcut="B")

    real = dict.fromkeys(expected, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(init_shapes(model)["params"]):
        keys = [key.key for key in path]
        kind = "fc" if keys[0] == "fc" else "conv" if keys[-1] == "kernel" else "batch_norm"
        real[kind] += leaf.size
    assert real == expected

    layers = layer_costs(model, 224)
    assert {kind: sum(layer.parameters for layer in layers if layer.kind == kind) for kind in expected} == expected
    assert sum(layer.kind == "conv" for layer in layers) == convs
    assert sum(layer.kind == "batch_norm" for layer in layers) == convs


@pytest.mark.parametrize(
    ("name", "shortcut", "weighted", "projections"),
    [
        ("plain18", None, 18, 0),
        ("resnet34", "A", 34, 0),
        ("resnet34", "B", 34, 3),
        ("resnet34", "C", 34, 16),
        ("resnet50", "B", 50, 4),
        ("resnet152", "C", 152, 50),
        ("cifar_resnet20", "A", 20, 0),
        ("cifar_resnet20", "B", 20, 2),
        ("cifar_plain110", None, 110, 0),
        ("cifar_resnet1202", "C", 1202, 600),
    ],
)
def test_depth_is_the_number_of_weighted_layers(name, shortcut, weighted, projections):
    layers = layer_costs(create(name, shortcut=shortcut), 32)
    multiplying = [layer.name for layer in layers if layer.kind in ("conv", "fc")]
    shortcuts = [layer for layer in multiplying if "/shortcut/" in layer]
    assert (len(multiplying) - len(shortcuts), len(shortcuts)) == (weighted, projections)
    assert len({layer.name for layer in layers}) == len(layers)


def test_cifar_multiply_adds():
    for family in ("cifar_resnet", "cifar_plain"):
        found = {depth: counted(f"{family}{depth}")["multiply_adds"] for depth in CIFAR}
        assert found == {depth: row[3] for depth, row in CIFAR.items()}, family


# Section 2.5, in billions.
MULTIPLY_ADDS = [
    ("plain18", None, {}, 1.7948),
    ("resnet18", "A", {}, 1.7948),
    ("resnet18", "B", {}, 1.8141),
    ("plain34", None, {}, 3.6445),
    ("resnet34", "A", {}, 3.6445),
    ("resnet34", "B", {}, 3.6638),
    ("resnet50", "B", {}, 3.8580),
    ("resnet101", "B", {}, 7.5702),
    ("resnet152", "B", {}, 11.2824),
    ("resnet50", "B", {"bottleneck_stride": "3x3"}, 4.0892),
    ("resnet101", "B", {"bottleneck_stride": "3x3"}, 7.8014),
    ("resnet152", "B", {"bottleneck_stride": "3x3"}, 11.5136),
    ("resnet50", "A", {}, 3.4983),
    ("plain50", None, {}, 3.4983),
    ("resnet101", "A", {}, 7.2105),
    ("plain101", None, {}, 7.2105),
    ("resnet152", "A", {}, 10.9228),
    ("plain152", None, {}, 10.9228),
]


def test_imagenet_multiply_adds():
    found = [(*row[:3], round(billions(row[0], row[1], **row[2]), 4)) for row in MULTIPLY_ADDS]
    assert found == MULTIPLY_ADDS


def test_multiply_adds_agree_with_table_1():
    for depth, paper in ((18, 1.8e9), (34, 3.6e9), (50, 3.8e9), (101, 7.6e9), (152, 11.3e9)):
        name = f"resnet{depth}"
        stated = summary(create(name))
        assert stated["paper"] == {"parameters": None, "multiply_adds": paper}, name
        assert stated["multiply_adds"] == pytest.approx(paper, rel=0.02), name
        if depth in (50, 101):
            # Only the first 1x1 convolution can have had the stride.
            assert billions(name, bottleneck_stride="3x3") * 1e9 != pytest.approx(paper, rel=0.02), name


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (18, (462.4, 411.0, 411.0, 411.0)),
        (34, (693.6, 873.5, 1335.9, 642.3)),
        (50, (667.9, 950.5, 1387.3, 732.2)),
        (101, (667.9, 950.5, 5099.5, 732.2)),
        (152, (667.9, 1824.0, 7938.2, 732.2)),
    ],
)
def test_stages(depth, expected):
    stages = {stage["name"]: stage for stage in counted(f"resnet{depth}")["stages"]}
    assert list(stages) == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "fc"]
    millions = [round(stage["multiply_adds"] / 1e6, 1) for stage in stages.values()]
    assert millions[:5] == [118.0, *expected]
    widths = [64, 64, 128, 256, 512] if depth < 50 else [64, 256, 512, 1024, 2048]
    sides = [112, 56, 28, 14, 7]
    assert [stage["output"] for stage in stages.values()] == [
        *([side, side, width] for side, width in zip(sides, widths, strict=True)),
        [1000],
    ]
    blocks = [stage["blocks"] for stage in stages.values()]
    assert blocks == [0, *create(f"resnet{depth}").stage_sizes, 0]


def traced_multiply_adds(jaxpr) -> int:
    """Multiply-adds of a program: those of its convolutions and matrix products, times the length of each scan."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv", "dot_general"):
            kernel = equation.invars[1].aval.shape
            # NHWC images with HWIO kernels, or (batch, features) with a matrix: the output's last axis is the kernel's.
            total += equation.outvars[0].aval.size * functools.reduce(int.__mul__, kernel[:-1])
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):
                total += traced_multiply_adds(inner) * equation.params.get("length", 1)
    return total


@pytest.mark.parametrize(
    ("name", "shortcut", "image_size", "fields"),
    [
        ("plain18", None, 224, {}),
        ("resnet34", "A", 224, {}),
        ("resnet34", "C", 97, {"num_classes": 7}),
        ("resnet50", "B", 224, {}),
        ("resnet50", "C", 160, {"bottleneck_stride": "3x3", "stem_pool_padding": "torch", "unroll": True}),
        ("resnet101", "B", 225, {"bottleneck_stride": "3x3"}),
        ("resnet152", "A", 33, {}),
        ("cifar_resnet56", "A", 32, {"num_classes": 100}),
        ("cifar_resnet110", "B", 31, {"dtype": jnp.bfloat16}),
        ("cifar_resnet1202", "C", 32, {}),
        ("cifar_plain8", None, 64, {"unroll": True}),
    ],
)
def test_multiply_adds_are_those_of_the_program(name, shortcut, image_size, fields):
    model = create(name, shortcut=shortcut, **fields)
    program = jax.make_jaxpr(lambda variables, images: model.apply(variables, images, train=False))(
        init_shapes(model), jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    )
    assert summary(model, image_size)["multiply_adds"] == traced_multiply_adds(program.jaxpr)


def test_activation_bytes_of_cifar_resnet20():
    # Two maps for each convolution, and 64 pooled features.
    values = 2 * (7 * 32 * 32 * 16 + 6 * 16 * 16 * 32 + 6 * 8 * 8 * 64)
    assert counted("cifar_resnet20")["activation_bytes"] == 4 * (values + 64)
    assert counted("cifar_plain20")["activation_bytes"] == 4 * (values + 64)
    # The average and the classifier stay in float32.
    assert counted("cifar_resnet20", dtype=jnp.bfloat16)["activation_bytes"] == 2 * values + 4 * 64
    # Two projections, whose outputs their batch norms keep.
    projected = 16 * 16 * 32 + 8 * 8 * 64
    assert counted("cifar_resnet20", "B")["activation_bytes"] == 4 * (values + projected + 64)


@pytest.mark.parametrize("shortcut", ["A", "B", "C", None])
@pytest.mark.parametrize(("stem", "bottleneck"), [("imagenet", True), ("imagenet", False), ("cifar", False)])
def test_activation_bytes_are_what_the_gradients_read(stem, bottleneck, shortcut):
    """Counts, without scans, the distinct activations around the operations whose gradients read them."""
    model = ResNet((1, 1, 1), (64, 128, 256), bottleneck, stem, 10, shortcut)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    program = jax.make_jaxpr(
        lambda variables, images: model.apply(variables, images, train=True, mutable="batch_stats")
    )(init_shapes(model), images)

    read = set()
    for equation in program.jaxpr.eqns:
        name = equation.primitive.name
        if name == "conv":
            # A convolution reads its input, and the batch norm after it its output.
            read |= {equation.invars[0], equation.outvars[0]}
        elif name == "custom_jvp_call":
            # The gradient of ReLU, the only other such function here, reads its output.
            read.add(equation.outvars[0])
        elif name in ("reduce_window_max", "dot_general"):
            read.add(equation.invars[0])
    kept = read - set(program.jaxpr.invars)
    assert summary(model, 64)["activation_bytes"] == sum(var.aval.size * 4 for var in kept)


def test_layers_of_a_scan_are_listed_as_often_as_they_run():
    layers = layer_costs(create("cifar_resnet32", shortcut="A"), 32)
    names = [layer.name for layer in layers if layer.kind == "conv"]
    assert names[:4] == ["conv1", "stage1/block1/conv1", "stage1/block1/conv2", "stage1/block2/conv1"]
    assert names[-1] == "stage3/block5/conv2"
    assert layers[-1].name == layers[-1].kind == "fc"


@pytest.mark.parametrize("name", ["resnet152", "cifar_resnet1202"])
def test_json_form(name):
    costs = json.loads(json.dumps(summary(create(name))))
    for cost in ("parameters", "multiply_adds", "activation_bytes"):
        assert costs[cost] == sum(stage[cost] for stage in costs["stages"]) > 0
    assert costs["shortcut"] == ("A" if "cifar" in name else "B")
    assert costs["image_size"] == (32 if "cifar" in name else 224)


def test_parameters_agree_with_table_6():
    for depth, paper in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)):
        costs = summary(create(f"cifar_resnet{depth}"))
        assert costs["paper"]["parameters"] == pytest.approx(paper * 1e6), depth
        digits = 1 if paper > 1 else 2
        assert round(costs["parameters"] / 1e6, digits) == pytest.approx(paper, abs=0.011), depth


def test_the_papers_figures_stand_beside_its_own_networks_only():
    none = {"parameters": None, "multiply_adds": None}
    for name, fields in [
        ("resnet50", {"shortcut": "A"}),
        ("resnet50", {"bottleneck_stride": "3x3"}),
        ("resnet50", {"num_classes": 10}),
        ("plain50", {}),
        ("cifar_resnet20", {"shortcut": "C"}),
        ("cifar_plain20", {}),
        ("cifar_resnet26", {}),
    ]:
        assert summary(create(name, **fields))["paper"] == none, (name, fields)
    assert summary(create("resnet50"), 256)["paper"] == none
    assert counted("plain34")["paper"] == none | {"multiply_adds": 3.6e9}


def test_rows_for_people():
    rows = {row[0]: row[1:] for row in table_rows(counted("resnet50")) if row}
    assert rows["conv3_x"][:4] == ("28×28×512", "4", "1,219,584", "950.5")
    assert rows["total"][2:4] == ("25,557,032", "3,858.0")
    assert rows["paper"] == ("", "", "", "3,800", "")
    assert "paper" not in [row[0] for row in table_rows(counted("resnet50", "C")) if row]
    assert table_rows(counted("cifar_resnet20"))[-1] == ("paper", "", "", "0.27M", "", "")


def test_errors():
    for size, channels in ((0, 3), (8, 0)):
        with pytest.raises(ValueError, match="at least one pixel"):
            layer_costs(create("resnet50"), size, channels)
    wide = small_classifier((8, 16, 1))
    with pytest.raises(ValueError, match="images are 8 x 16, but costs are of square ones: give image_size"):
        layer_costs(wide)
    with pytest.raises(ValueError, match="not of Dense"):
        summary(nn.Dense(3))


def test_the_size_and_the_channels_are_those_of_a_classifiers_images():
    classifier = small_classifier()
    assert layer_costs(classifier) == layer_costs(classifier.model, 8, 1)
    assert summary(classifier)["image_size"] == 8
    assert layer_costs(classifier, 16) == layer_costs(classifier.model, 16, 1)
    assert layer_costs(classifier.model) == layer_costs(classifier.model, 32, 3)
