"""Converted weights compute what PyTorch computes, in evaluation and in training, and come back bit for bit."""

import copy
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import torch_networks
from resnet_jax import models
from resnet_jax.errors import InputError
from resnet_jax.interop import torch_weights
from resnet_jax.interop.files import read_weights
from resnet_jax.interop.torch_weights import identify
from torch_networks import nchw, random_torch_resnet, tensors_of

pytestmark = pytest.mark.optimized

torch = torch_networks.torch

TORCHVISION = {"bottleneck_stride": "3x3", "stem_pool_padding": "torch", "shortcut": "B"}
AKAMASTER = {"shortcut": "A", "shortcut_padding": "both"}
CIFAR_WEIGHTS = {20: "resnet20-12fca82f", 44: "resnet44-014dd654"}
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)


def ours(depth, classes=10):
    return models.create(f"resnet{depth}", num_classes=classes, **TORCHVISION)


def random_images(batch, height, width, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, height, width, 3)).astype(np.float32)


def random_tensors(model):
    """Tensors of a network of ours by their torch names, made without torch."""
    return dict(_random_tensors(model))


@cache
def _random_tensors(model):
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), variables)
    return torch_weights.to_torch(variables)


def assert_close(actual, expected, tolerance):
    """Within a tolerance relative to the largest of the expected values."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def resnet18():
    return ours(18)


@pytest.mark.torch
@pytest.mark.test_data
@pytest.mark.parametrize("depth", CIFAR_WEIGHTS)
def test_cifar_weights_give_the_logits_of_torch(depth, test_data):
    tensors = read_weights(test_data / "weights" / f"{CIFAR_WEIGHTS[depth]}.th")[0]
    golden = np.load(test_data / "weights" / f"{CIFAR_WEIGHTS[depth]}_golden.npz")
    model = models.create(f"cifar_resnet{depth}", **AKAMASTER)
    variables = torch_weights.from_torch(tensors, model)
    images = (golden["image"].astype(np.float32) / 255 - MEAN) / STD
    logits = jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, images)
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.torch
@pytest.mark.test_data
@pytest.mark.parametrize("depth", CIFAR_WEIGHTS)
def test_cifar_weights_come_back_bit_for_bit(depth, test_data):
    path = test_data / "weights" / f"{CIFAR_WEIGHTS[depth]}.th"
    model = models.create(f"cifar_resnet{depth}", **AKAMASTER)
    back = torch_weights.to_torch(torch_weights.from_torch(read_weights(path)[0], model), layout="akamaster")
    original = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    original = {name.removeprefix("module."): tensor.numpy() for name, tensor in original.items()}
    assert {name for name in back if not name.endswith("num_batches_tracked")} == original.keys()
    for name, tensor in original.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert back[name].tobytes() == tensor.tobytes(), name


@pytest.mark.torch
@pytest.mark.test_data
@pytest.mark.parametrize("depth", CIFAR_WEIGHTS)
def test_cifar_weights_are_recognised(depth, test_data):
    tensors = read_weights(test_data / "weights" / f"{CIFAR_WEIGHTS[depth]}.th")[0]
    assert identify(tensors) == models.create(f"cifar_resnet{depth}", stem_pool_padding="torch", **AKAMASTER)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("depth", "sides"),
    [
        (18, [(224, 224), (193, 160)]),
        (50, [(224, 224), (193, 160)]),
        (152, [(64, 64)]),
    ],
)
def test_evaluation_gives_the_logits_of_torch(depth, sides):
    theirs = random_torch_resnet(depth).eval()
    model = ours(depth)
    variables = torch_weights.from_torch(tensors_of(theirs), model)
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    for height, width in sides:
        images = random_images(2, height, width)
        with torch.no_grad():
            expected = theirs(nchw(images)).numpy()
        assert_close(apply(variables, images), expected, 1e-4)


def torch_training_step(network, images, labels):
    """Logits, gradients and new running statistics, by their torch names; in the precision of the images."""
    network = copy.deepcopy(network).to(torch.from_numpy(images).dtype).train()
    logits = network(nchw(images))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    statistics = {name: tensor for name, tensor in tensors_of(network).items() if "running" in name}
    return logits.detach().numpy(), gradients, statistics


def our_training_step(tensors, model, images, labels):
    """The same of ours."""

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, updated["batch_stats"])

    variables = jax.tree.map(lambda leaf: leaf.astype(images.dtype), torch_weights.from_torch(tensors, model))
    compute = jax.jit(jax.grad(loss, has_aux=True))
    gradients, (logits, statistics) = compute(variables["params"], variables["batch_stats"])
    got = torch_weights.to_torch({"params": gradients, "batch_stats": statistics})
    got = {name: tensor for name, tensor in got.items() if not name.endswith("num_batches_tracked")}
    statistics = {name: got.pop(name) for name in list(got) if "running" in name}
    return np.asarray(logits), got, statistics


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def images_and_labels():
    return random_images(4, 64, 64), np.arange(4)


@cache
def exact_training_step(depth):
    """What torch computes in float64."""
    images, labels = images_and_labels()
    return torch_training_step(random_torch_resnet(depth), images.astype(np.float64), labels)


@pytest.mark.torch
@pytest.mark.parametrize("depth", [18, 50])
def test_training_in_float64_gives_the_logits_gradients_and_statistics_of_torch(depth):
    """All agree to the last digits, so that formulas, and not only their results, are the same."""
    before, (images, labels) = tensors_of(random_torch_resnet(depth)), images_and_labels()
    exact_logits, exact_gradients, exact_statistics = exact_training_step(depth)
    with jax.enable_x64(True):
        logits, gradients, statistics = our_training_step(
            before, ours(depth).clone(dtype=jnp.float64), images.astype(np.float64), labels
        )
    assert gradients.keys() == exact_gradients.keys()
    assert statistics.keys() == exact_statistics.keys()
    assert relative_error(logits, exact_logits) < 1e-10
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float64
        assert relative_error(gradient, exact_gradients[name]) < 1e-10, name
    for name, value in statistics.items():
        # Of the change, for a tenth of the batch's statistics is little beside what was there before.
        change = exact_statistics[name] - before[name]
        assert np.abs(change).max() > 1e-3, "torch did not update its statistics"
        assert relative_error(value - before[name], change) < 1e-10, name


@pytest.mark.torch
def test_training_in_float32_is_as_exact_as_torchs():
    """Rounding moves values across the kinks of ReLU and pooling, which turns gradients by percents in torch as well:
    ours must not be further from the exact ones than a few times what torch's are, or 1 %.
    """
    theirs, (images, labels) = random_torch_resnet(18), images_and_labels()
    before, (_, exact_gradients, exact_statistics) = tensors_of(theirs), exact_training_step(18)
    their_logits, their_gradients, _ = torch_training_step(theirs, images, labels)
    logits, gradients, statistics = our_training_step(before, ours(18), images, labels)
    assert_close(logits, their_logits, 1e-4)
    assert gradients.keys() == exact_gradients.keys()
    for name, gradient in gradients.items():
        allowed = max(1e-2, 3 * relative_error(their_gradients[name], exact_gradients[name]))
        assert relative_error(gradient, exact_gradients[name]) < allowed, name
    assert statistics.keys() == exact_statistics.keys()
    for name, value in statistics.items():
        assert value.dtype == np.float32
        assert relative_error(value - before[name], exact_statistics[name] - before[name]) < 1e-4, name


@pytest.mark.torch
@pytest.mark.parametrize("depth", torch_networks.DEPTHS)
def test_torchvision_weights_are_recognised_and_come_back_bit_for_bit(depth):
    theirs = random_torch_resnet(depth, classes=7)
    tensors = tensors_of(theirs)
    model = ours(depth, classes=7)
    assert identify(tensors) == model
    back = torch_weights.to_torch(torch_weights.from_torch(tensors, model))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape), name
        assert back[name].tobytes() == tensor.tobytes(), name
    # A strict load refuses any name or shape that torch does not expect.
    theirs.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in back.items()})


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize(
    ("name", "unroll"),
    [("resnet18", False), ("resnet50", False), ("cifar_resnet8", False), ("cifar_resnet20", False), ("resnet18", True)],
)
def test_shortcuts_are_recognised_however_blocks_are_stacked(name, unroll, shortcut):
    model = models.create(name, shortcut=shortcut, num_classes=3, unroll=unroll)
    layout = {"shortcut_padding": "both"} if name.startswith("cifar") else {"bottleneck_stride": "3x3"}
    assert identify(random_tensors(model)) == model.clone(stem_pool_padding="torch", unroll=None, **layout)


def test_plain_weights_are_named_like_those_of_shortcut_a():
    plain, residual = models.create("cifar_plain20"), models.create("cifar_resnet20", shortcut="A")
    assert random_tensors(plain).keys() == random_tensors(residual).keys()


def test_akamasters_names_for_projections_and_classifier():
    model = models.create("cifar_resnet20", shortcut="B")
    tensors = random_tensors(model)
    back = torch_weights.to_torch(torch_weights.from_torch(tensors, model), layout="akamaster")
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var", "linear.bias"} <= back.keys()
    renamed = {
        name.replace("downsample", "shortcut").replace("fc", "linear"): tensor for name, tensor in tensors.items()
    }
    assert identify(renamed) == model.clone(shortcut_padding="both", bottleneck_stride="1x1", stem_pool_padding="torch")
    jax.tree.map(
        np.testing.assert_array_equal,
        torch_weights.from_torch(renamed, model),
        torch_weights.from_torch(tensors, model),
    )


def test_half_precision_becomes_float32(resnet18):
    tensors = {name: tensor.astype(jnp.bfloat16) for name, tensor in random_tensors(resnet18).items()}
    variables = torch_weights.from_torch(tensors, resnet18)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_a_missing_weight_is_named(resnet18):
    tensors = random_tensors(resnet18)
    del tensors["layer3.1.conv2.weight"]
    with pytest.raises(InputError, match=r"lack layer3\.1\.conv2\.weight, of shape \(256, 256, 3, 3\)"):
        torch_weights.from_torch(tensors, resnet18)


def test_a_weight_too_many_is_named(resnet18):
    tensors = random_tensors(resnet18) | {"layer1.0.se.fc1.weight": np.zeros((4, 64, 1, 1), np.float32)}
    with pytest.raises(InputError, match=r"hold layer1\.0\.se\.fc1\.weight, of shape \(4, 64, 1, 1\)"):
        torch_weights.from_torch(tensors, resnet18)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("conv1.weight", (64, 3, 3, 3), r"\(64, 3, 7, 7\)"),
        ("layer1.1.bn1.running_mean", (32,), r"\(64,\)"),
        ("fc.weight", (1000, 512), r"\(10, 512\)"),
        ("fc.bias", (), r"\(10,\)"),
    ],
)
def test_a_wrong_shape_is_named_with_what_was_expected(name, shape, expected, resnet18):
    tensors = random_tensors(resnet18) | {name: np.zeros(shape, np.float32)}
    given = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=rf"{name} has the shape {given}, but {expected} was expected"):
        torch_weights.from_torch(tensors, resnet18)


@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        (
            "resnet34",
            "resnet18",
            r"hold layer1\.2\.bn1\.bias, of shape \(64,\), and \d+ more \(in layer1, .*which this network",
        ),
        ("resnet18", "resnet34", r"lack layer1\.2\.\S+, of shape \(64,"),
        ("resnet34", "resnet50", r"lack layer1\.0\.(bn|conv)3\.\S+|layer1\.0\.\S+ has the shape"),
        ("cifar_resnet20", "resnet18", r"bn1\.\S+ has the shape \(16,\), but \(64,\) was expected"),
    ],
)
def test_weights_of_another_network_are_refused(given, asked, message):
    with pytest.raises(InputError, match=message):
        torch_weights.from_torch(random_tensors(models.create(given)), models.create(asked))


def without(tensors, pattern):
    return {name: tensor for name, tensor in tensors.items() if pattern not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {}, "not the weights of a ResNet"),
        (lambda tensors: {"features.0.weight": np.zeros((64, 3, 3, 3))}, r"names are features\.0\.weight"),
        (lambda tensors: without(tensors, "fc."), r"classifier is missing, fc\.weight of shape \(classes, 512\)"),
        (lambda tensors: without(tensors, "layer2."), "not the weights of a ResNet"),
        (lambda tensors: without(tensors, "layer1.1."), "1, 2, 2, 2 blocks of 2 convolutions"),
        (lambda tensors: without(tensors, "layer4.") | {"layer1.0.conv3.weight": np.zeros(1)}, "2, 2, 2 blocks of 3"),
        (
            lambda tensors: without(tensors, "conv1.weight") | {"conv1.0.weight": np.zeros((32, 3, 3, 3))},
            r"several 3x3 convolutions \(conv1\.0\.weight",
        ),
        (
            lambda tensors: (
                without(tensors, "downsample") | {"layer2.0.downsample.1.weight": np.zeros((128, 64, 1, 1))}
            ),
            r"layer2\.0\.downsample\.1\.weight is a convolution: this network pools",
        ),
    ],
)
def test_networks_that_the_paper_does_not_have_are_refused(change, message, resnet18):
    with pytest.raises(InputError, match=message):
        identify(change(random_tensors(resnet18)))
