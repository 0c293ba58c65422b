"""What networks are written as on accelerators, traced and run on a CPU: the same function as its own way."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.benchmark import VARIANTS
from resnet_jax.models.layers import BatchNorm

NETWORK = models.ResNet((3, 2), (4, 8), False, "imagenet", 10, "B")


def on_an_accelerator(monkeypatch):
    jax.devices()  # before they are started nothing is known of them
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def loops(model):
    variables = models.abstract_variables(model, (8, 8, 3))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda *given: model.apply(*given, True, mutable=["batch_stats"]))(variables, images)
    return len(re.findall(r"unroll=1\b", str(traced)))


def test_stages_are_written_out_unless_they_have_very_many_blocks(monkeypatch):
    deep = models.ResNet((42, 3), (2, 4), False, "cifar", 10, "A")
    assert loops(deep) == 2
    on_an_accelerator(monkeypatch)
    assert [loops(deep.clone(unroll=unroll)) for unroll in (None, False)] == [1, 2]


def test_the_forms_that_are_measured_are_what_their_names_say(monkeypatch):
    on_an_accelerator(monkeypatch)
    model = models.create("cifar_resnet20")
    found = {name: loops(variant.network(model)) for name, variant in VARIANTS.items()}
    assert found == {"run": 0, "scanned": 3, "rolled": 3, "unrolled": 0, "unrolled_scanned": 0}


@pytest.mark.parametrize("group", [None, 2])
def test_a_step_is_that_of_a_cpu(group, monkeypatch):
    model = NETWORK.clone(bn_group_size=group)
    variables = models.init(model, (32, 32, 3), jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)

    def step(params):
        def loss(params):
            logits, updated = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return jax.nn.log_softmax(logits)[:, 3].sum(), (logits, updated["batch_stats"])

        gradients, (logits, stats) = jax.jit(jax.grad(loss, has_aux=True))(params)
        return {"logits": logits, "stats": stats, "gradients": gradients}

    expected = step(variables["params"])
    on_an_accelerator(monkeypatch)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), step(variables["params"]), expected)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.02)])
def test_the_gradient_of_batch_norm_is_that_of_its_formula(dtype, tolerance, platform, monkeypatch):
    """The backward pass of Ioffe and Szegedy (1502.03167, section 3), each group for itself, in float64."""
    jax.devices()
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    rng = np.random.default_rng(0)
    x = jnp.asarray(2 * rng.normal(size=(6, 4, 5, 3)) + 1, dtype)
    cotangent = jnp.asarray(rng.normal(size=x.shape), dtype)
    params = {name: jnp.asarray(rng.uniform(0.5, 2.0, 3), jnp.float32) for name in ("scale", "bias")}
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    bn = BatchNorm(bn_group_size=2, dtype=dtype)

    def normalised(params, x):
        return bn.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])[0]

    of_params, of_x = jax.vjp(normalised, params, x)[1](cotangent)

    wide, dy = (np.asarray(each, np.float64).reshape(3, -1, 3) for each in (x, cotangent))
    deviation = np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    hat = (wide - wide.mean(1, keepdims=True)) / deviation
    scale = np.asarray(params["scale"], np.float64)
    expected = scale / deviation * (dy - dy.mean(1, keepdims=True) - hat * (dy * hat).mean(1, keepdims=True))
    np.testing.assert_allclose(np.asarray(of_x, np.float64).reshape(expected.shape), expected, atol=tolerance)
    np.testing.assert_allclose(of_params["bias"], dy.sum((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(of_params["scale"], (dy * hat).sum((0, 1)), rtol=1e-4)
