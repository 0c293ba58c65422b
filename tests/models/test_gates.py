"""Gates on branches and shortcuts: constants against the networks they must equal, learned ones against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.models import Gates, half_open_bias
from resnet_jax.models.blocks import BasicBlock
from resnet_jax.models.gates import gated
from resnet_jax.models.layers import BatchNorm

RESNET = models.ResNet((2, 1), (4, 8), False, "cifar", 5, "A", unroll=True)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(1)
    shapes = models.abstract_variables(RESNET, (8, 8, 3))
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 0.4, leaf.shape).astype(np.float32), shapes) | {
        "params": jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes["params"])
    }


def loss_and_gradients(model, variables):
    def loss(params):
        logits, updated = model.apply({**variables, "params": params}, IMAGES, True, mutable=["batch_stats"])
        return (logits @ jnp.arange(5.0)).sum(), (logits, updated)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_open_gates_are_the_residual_network_to_the_bit(variables):
    """Only uncoupled ones can be open at once; learned gates are never (sigmoid(17) is 1 in float32, and 16 is not)."""
    opened = RESNET.clone(gates=Gates(1.0, 1.0))
    assert jax.tree.map(np.shape, models.abstract_variables(opened, (8, 8, 3))) == jax.tree.map(np.shape, variables)
    for pair in zip(*(jax.tree.leaves(loss_and_gradients(each, variables)) for each in (opened, RESNET)), strict=True):
        np.testing.assert_array_equal(*pair)


def test_coupled_gates_end_at_the_plain_network_and_at_copies(variables):
    plain = RESNET.clone(shortcut=None)
    closed = RESNET.clone(gates=Gates(1.0, "coupled")).apply(variables, IMAGES, False)
    np.testing.assert_array_equal(closed, plain.apply(variables, IMAGES, False))
    copying = RESNET.clone(gates=Gates(0.0, "coupled"))
    maps = copying.apply(variables, IMAGES, False, method="stages")
    np.testing.assert_array_equal(maps["stage1"], maps["stem"])
    np.testing.assert_array_equal(maps["stage2"][..., :4], maps["stem"][:, ::2, ::2])
    assert not maps["stage2"][..., 4:].any()


@pytest.mark.parametrize(
    ("gates", "stride"),
    [
        (Gates(0.5, "coupled"), 1),
        (Gates("learned", "coupled", -1.0), 2),
        (Gates("learned", "learned", 0.5), 1),
        (Gates(1.0, "learned", -2.0), 1),
    ],
    ids=["half", "coupled", "uncoupled", "shortcut only"],
)
def test_a_block_is_that_of_the_formula(gates, stride):
    """relu(T H(x) + C x), with what NumPy makes of the gates' weights; T = 1/2 gives (H(x) + x) / 2."""
    rng = np.random.default_rng(2)
    features = 4 * stride
    block = BasicBlock(features, stride, "A", "end", BatchNorm, gates=gates)
    x = jnp.asarray(np.abs(rng.normal(size=(2, 6, 6, 4))), jnp.float32)
    variables = block.init(jax.random.key(0), x, False)
    for name in ("transform_gate", "carry_gate"):
        if name in variables["params"]:
            conv = variables["params"][name]["conv"]
            assert (np.asarray(conv["kernel"]) == 0).all()
            assert (np.asarray(conv["bias"]) == gates.bias).all()
            conv["kernel"] = jnp.asarray(rng.normal(size=conv["kernel"].shape), jnp.float32)
    y, captured = block.apply(
        variables, x, False, capture_intermediates=lambda module, _: module.name == "bn2", mutable=["intermediates"]
    )
    branch = captured["intermediates"]["bn2"]["__call__"][0]
    here = np.asarray(x)[:, ::stride, ::stride]
    shortcut = np.pad(here, ((0, 0), (0, 0), (0, 0), (0, features - 4)))

    def gate(name):
        return sigmoid(here @ np.asarray(variables["params"][name]["conv"]["kernel"][0, 0]) + gates.bias)

    transform = gate("transform_gate") if gates.transform == "learned" else gates.transform
    carry = 1 - (gate("carry_gate") if gates.carry == "learned" else transform)
    np.testing.assert_allclose(y, np.maximum(branch * transform + shortcut * carry, 0), rtol=1e-5, atol=1e-6)
    if gates.transform == 0.5:
        np.testing.assert_allclose(y, np.maximum((branch + shortcut) / 2, 0), rtol=1e-6)


def test_half_of_the_input_is_carried_through_all_blocks_at_any_depth():
    biases = [half_open_bias(blocks) for blocks in (1, 9, 27, 54, 600)]
    for blocks, bias in zip((1, 9, 27, 54, 600), biases, strict=True):
        np.testing.assert_allclose((1 - sigmoid(bias)) ** blocks, 0.5, rtol=1e-9)
    assert sorted(biases, reverse=True) == biases
    # At the published bias of -2, 98 layers carry nothing.
    assert (1 - sigmoid(-2)) ** 98 < 1e-5
    model = models.ResNet((3,), (4,), False, "cifar", 5, "A", gates=Gates())
    gate = models.init(model, (8, 8, 3), jax.random.key(0))["params"]["stage1"]["rest"]["transform_gate"]["conv"]
    np.testing.assert_allclose(gate["bias"], np.full((2, 4), half_open_bias(3)), rtol=1e-6)


def test_gates_have_the_parameters_of_1x1_convolutions():
    def parameters(name, **fields):
        shapes = models.abstract_variables(models.create(name, **fields), (8, 8, 3))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    widths = [(16, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    of_gates = sum(before * after + after for before, after in widths)
    assert parameters("cifar_highway20") == 269_722 + of_gates
    assert parameters("cifar_highway20", gates=Gates(carry="learned")) == 269_722 + 2 * of_gates


def test_gates_that_are_none_are_refused():
    for field, wrong, message in (
        ("carry", "closed", "carry is 'closed', but it must be a number or 'learned' or 'coupled'"),
        ("transform", "coupled", "transform is 'coupled', but it must be a number or 'learned'$"),
        ("transform", None, "transform is None, but it must be a number"),
        ("carry", np.nan, "carry is nan, but it must be a number"),
        ("bias", "x", "bias is 'x', but it must be a number or None"),
        ("bias", np.inf, "bias is inf, but it must be a number"),
    ):
        # Users have no type checks, which `Gates(…)` has here.
        gates = Gates()
        object.__setattr__(gates, field, wrong)
        with pytest.raises(ValueError, match=message):
            gates.__post_init__()
    assert Gates(1.0, 0.5, np.float64(-2)).bias == -2
    with pytest.raises(ValueError, match="there are 0 blocks, but gates need at least 1"):
        half_open_bias(0)
    for network in (RESNET.clone(), models.DeepMLP(3, 4, 5), models.HighwayNet()):
        object.__setattr__(network, "gates", "coupled")
        with pytest.raises(ValueError, match=r"gates is 'coupled', but it must be a resnet_jax.models.Gates, such as"):
            network.__post_init__()
    with pytest.raises(ValueError, match="a plain network has no shortcuts"):
        RESNET.clone(shortcut=None, gates=Gates())
    assert gated(jnp.ones(2), jnp.full(2, 3.0), Gates(0.25, 2.0), None).tolist() == [6.25, 6.25]
