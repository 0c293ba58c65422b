"""With oneDNN, convolutions and their gradients are what XLA computes, wherever they are asked for."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_conv import CASES, assert_close, gradients, native, operands

from needs import unavailable
from resnet_jax.models import create, init, onednn
from resnet_jax.models.conv import conv

pytestmark = pytest.mark.slow
CALL = "custom_call @resnet_jax_onednn_conv"
SAME = ((1, 1), (1, 1))


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.setenv("RESNET_JAX_ONEDNN", "1")
    onednn._library.cache_clear()
    jax.clear_caches()
    yield
    monkeypatch.undo()
    onednn._library.cache_clear()
    jax.clear_caches()


@pytest.fixture(autouse=True)
def installed(switched_on):
    if not onednn.version():
        unavailable("the extra onednn is not installed")


def all_of_it(function, stride, padding):
    def both(x, kernel, cotangent):
        return function(x, kernel, stride, padding), *gradients(function, x, kernel, cotangent, stride, padding)

    return both


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES)
def test_all_three_are_those_of_xla(shape, size, stride, padding):
    args = operands(shape, size, stride, padding, jnp.float32)
    own = jax.jit(all_of_it(conv, stride, padding))
    assert own.lower(*args).as_text().count(CALL) == 3
    found, expected = own(*args), all_of_it(native, stride, padding)(*args)
    assert_close(found[0], numpy_reference.conv(*map(np.asarray, args[:2]), stride, padding), 1e-6)
    for actual, reference in zip(found, expected, strict=True):
        assert_close(actual, reference, 1e-5)


def test_in_a_loop_they_are_those_outside():
    args = operands((4, 7, 7), 3, 2, SAME, jnp.float32, steps=(3,))
    own = jax.jit(lambda *all_: lax.map(lambda each: all_of_it(conv, 2, SAME)(*each), all_))
    assert own.lower(*args).as_text().count(CALL) == 3
    for i in range(3):
        expected = all_of_it(native, 2, SAME)(*(each[i] for each in args))
        for actual, reference in zip(own(*args), expected, strict=True):
            assert_close(actual[i], reference, 1e-5)


def test_one_may_differentiate_as_often_as_one_likes():
    x, kernel, _ = operands((2, 6, 6), 3, 2, SAME, jnp.float32)

    def third(function):
        def loss(x, kernel):
            return jnp.sum(function(x, kernel, 2, SAME) ** 3)

        def twice(x, kernel):
            return jnp.sum(jax.grad(loss, 1)(x, kernel) ** 2)

        return jax.jit(jax.jacfwd(lambda x: jnp.sum(jax.grad(twice)(x, kernel) ** 2)))

    assert CALL in third(conv).lower(x).as_text()
    assert_close(third(conv)(x), third(native)(x), 1e-4)


# With one kernel for all images, the convolution and the gradient of the images are two of it, of more images.
@pytest.mark.parametrize(("axes", "calls"), [((0, None), 2), ((None, 0), 0), ((0, 0), 0)])
def test_under_vmap(axes, calls):
    x, kernel, _ = operands((2, 6, 6), 3, 1, SAME, jnp.float32)
    x, kernel = (
        jnp.stack([each, 2 * each]) if axis == 0 else each for each, axis in zip((x, kernel), axes, strict=True)
    )
    own, expected = (
        jax.jit(jax.vmap(jax.grad(lambda x, kernel, f=f: jnp.sum(f(x, kernel, 1, SAME) ** 2), (0, 1)), axes))
        for f in (conv, native)
    )
    assert own.lower(x, kernel).as_text().count(CALL) == calls
    for actual, reference in zip(own(x, kernel), expected(x, kernel), strict=True):
        assert_close(actual, reference, 1e-5)


@pytest.mark.parametrize("case", ["bfloat16", "float64", "eight devices", "exported", "nothing in it", "switched off"])
def test_the_rest_is_left_to_xla(case, monkeypatch):
    dtype = case if case in ("bfloat16", "float64") else "float32"
    with jax.enable_x64(dtype == "float64"):
        x, kernel, _ = operands((8, 5, 5), 3, 1, SAME, dtype)
        function = jax.jit(lambda x, kernel: conv(x, kernel, 1, SAME))
        if case == "nothing in it":
            x = x[:0]
        if case == "eight devices":
            mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
            x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
            kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
        if case == "switched off":
            monkeypatch.setenv("RESNET_JAX_ONEDNN", "0")
            onednn._library.cache_clear()
        text = function.lower(x, kernel).as_text()
        if case == "exported":
            text = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(x, kernel).mlir_module()
        assert "convolution" in text
        assert CALL not in text
        assert_close(function(x, kernel), native(x, kernel, 1, SAME), 1e-6) if x.size else None


@pytest.mark.parametrize("lacking", ["package", "file", "library", "a version that was tried"])
def test_without_it_xla_computes(lacking, monkeypatch):
    if lacking == "package":
        monkeypatch.setattr(onednn.importlib.metadata, "files", lambda name: (_ for _ in ()).throw(_missing()))
    if lacking == "file":
        monkeypatch.setattr(onednn.importlib.metadata, "files", lambda name: None)
    if lacking == "library":
        monkeypatch.setattr(onednn.ctypes, "CDLL", lambda path: (_ for _ in ()).throw(OSError("libgomp.so.1")))
    if lacking == "a version that was tried":
        monkeypatch.setattr(onednn.jaxlib.version, "__version__", "0.99.0")
    onednn._library.cache_clear()
    assert not onednn.version()
    x, kernel, _ = operands((2, 5, 5), 3, 1, SAME, jnp.float32)
    function = jax.jit(lambda x, kernel: conv(x, kernel, 1, SAME))
    assert CALL not in function.lower(x, kernel).as_text()


def _missing():
    return onednn.importlib.metadata.PackageNotFoundError(onednn._PACKAGE)


def test_the_gradient_of_a_kernel_that_saw_no_images_is_zero():
    x, kernel, _ = operands((2, 5, 5), 3, 1, SAME, jnp.float32)
    found = jax.jit(jax.grad(lambda kernel: jnp.sum(conv(x[:0], kernel, 1, SAME))))(kernel)
    np.testing.assert_array_equal(found, np.zeros_like(kernel))


def test_one_thread_compiles_and_others_run_it():
    args = operands((8, 9, 9), 3, 1, SAME, jnp.float32)
    own = jax.jit(all_of_it(conv, 1, SAME))
    with ThreadPoolExecutor(1) as compiling:
        compiled = compiling.submit(lambda: own.lower(*args).compile()).result()
    expected = all_of_it(native, 1, SAME)(*args)
    with ThreadPoolExecutor(4) as running:
        for found in running.map(lambda _: compiled(*args), range(16)):
            for actual, reference in zip(found, expected, strict=True):
                assert_close(actual, reference, 1e-5)


@pytest.mark.parametrize("raised", [onednn.OneDNNError, KeyboardInterrupt])
def test_an_error_of_it_is_one_of_the_program(raised, monkeypatch):
    x, kernel, _ = operands((3, 5, 5), 3, 1, SAME, jnp.float32)
    function = jax.jit(lambda x, kernel: conv(x, kernel, 1, SAME))
    right = function(x, kernel)

    def broken(self, *pointers):
        raise raised("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(onednn._Convolution, "__call__", broken)
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=rf"{raised.__name__}.*out of memory"):
            function(x, kernel).block_until_ready()
    np.testing.assert_array_equal(function(x, kernel), right)


def test_what_it_refuses_xla_computes(monkeypatch):
    def refused(self, *shapes):
        raise onednn.OneDNNError("unimplemented")

    monkeypatch.setattr(onednn._Convolution, "__init__", refused)
    monkeypatch.setattr(onednn, "_convolutions", {})
    x, kernel, _ = operands((5, 5, 5), 3, 1, SAME, jnp.float32)
    function = jax.jit(lambda x, kernel: conv(x, kernel, 1, SAME))
    assert CALL not in function.lower(x, kernel).as_text()
    assert_close(function(x, kernel), native(x, kernel, 1, SAME), 1e-6)


def test_a_network_has_the_logits_and_gradients_of_the_one_without(monkeypatch):
    network, shape = create("cifar_resnet14", num_classes=10), (16, 16, 3)
    variables = init(network, shape, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, *shape))

    def gradient():
        def loss(params):
            logits, _ = network.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.sum(logits**2), logits

        function = jax.jit(jax.grad(loss, has_aux=True))
        return CALL in function.lower(variables["params"]).as_text(), *function(variables["params"])

    used, with_it, logits = gradient()
    monkeypatch.setenv("RESNET_JAX_ONEDNN", "0")
    onednn._library.cache_clear()
    unused, without, expected = gradient()
    assert (used, unused) == (True, False)
    assert_close(logits, expected, 1e-4)
    for actual, reference in zip(jax.tree.leaves(with_it), jax.tree.leaves(without), strict=True):
        assert_close(actual, reference, 2e-3)


def test_a_run_is_repeated_to_the_bit(tmp_path):
    def train(workdir):
        fields = ["--config.model.depth=8", "--config.train.iterations=30", "--config.train.log_every=10"]
        command = [sys.executable, "-m", "resnet_jax.cli.main", "train", "--config=digits", *fields]
        environment = {**os.environ, "ONEDNN_VERBOSE": "1", "JAX_NUM_CPU_DEVICES": "1"}
        done = subprocess.run([*command, f"--workdir={workdir}"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert "convolution,jit" in done.stdout or "convolution,brg" in done.stdout
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return [line["train_loss"] for line in lines if "train_loss" in line]

    losses = train(tmp_path / "a")
    assert len(losses) == 3
    assert losses == train(tmp_path / "b")
