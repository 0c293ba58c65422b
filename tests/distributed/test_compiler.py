"""Programs that are compiled with options of their own, and what JAX allows only without them."""

import importlib
import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest

from resnet_jax.distributed import compiler
from resnet_jax.distributed.compiler import compiler_options, jit

pytestmark = pytest.mark.optimized

CONV = dict(window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture
def doubled(monkeypatch) -> list:
    """A function with options on any machine, and how often it was traced."""
    monkeypatch.setattr(compiler, "compiler_options", lambda: {"xla_cpu_enable_fast_math": False})
    traced = []

    @jit
    def function(x):
        traced.append(x)
        return 2 * x

    return [function, traced]


def test_a_function_with_options_may_be_called_in_whatever_is_traced(doubled):
    function, _ = doubled
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(function(x), [0, 2, 4])
    np.testing.assert_array_equal(jax.jit(function)(x), [0, 2, 4])
    np.testing.assert_array_equal(jax.jit(lambda: function(x))(), [0, 2, 4])
    np.testing.assert_array_equal(jax.grad(lambda x: function(x).sum())(x), [2, 2, 2])
    np.testing.assert_array_equal(jax.vmap(function)(x), [0, 2, 4])
    assert jax.grad(lambda w: jit(lambda x: w * x)(3.0))(2.0) == 3
    np.testing.assert_array_equal(jax.lax.scan(lambda c, y: (c, function(y)), 0, x)[1], [0, 2, 4])
    assert jax.eval_shape(function, x).shape == (3,)


def test_options_are_used_at_the_top_alone_wherever_the_file_is_imported(monkeypatch):
    def used(function):
        monkeypatch.setattr(compiler, "compiler_options", lambda: {"xla_no_such_option": True})
        try:
            function()
        except Exception as error:
            return "xla_no_such_option" in str(error)
        return False

    @jax.jit
    def imports():
        importlib.reload(compiler)
        return 0

    imports()
    function = compiler.jit(lambda x: x + 1)
    assert used(lambda: function(1.0))
    assert not used(lambda: jax.jit(function)(1.0))


def test_it_is_traced_once_for_each_shape(doubled):
    function, traced = doubled
    for _ in range(3):
        function(jnp.ones(3))
    assert len(traced) == 1
    function(jnp.ones(4))
    assert len(traced) == 2


def test_what_is_lowered_has_the_options(monkeypatch):
    monkeypatch.setattr(compiler, "compiler_options", lambda: {"xla_no_such_option": True})
    lowered = jit(lambda x: x + 1).lower(jnp.ones(2))
    with pytest.raises(Exception, match="xla_no_such_option"):
        lowered.compile()


def test_without_options_it_is_what_jax_makes(monkeypatch):
    monkeypatch.setattr(compiler, "compiler_options", lambda: None)
    np.testing.assert_array_equal(jit(lambda x: x + 1)(jnp.ones(2)), [2, 2])


@pytest.mark.parametrize(
    ("backend", "machine", "version", "asked"),
    [
        ("cpu", "x86_64", "0.10.2", True),
        ("cpu", "x86_64", "0.11.0.1", True),
        ("cpu", "x86_64", "0.12.0.1", True),
        ("cpu", "x86_64", "0.13.0", False),
        ("cpu", "x86_64", "0.9.2", False),
        ("cpu", "aarch64", "0.10.2", False),
        ("gpu", "x86_64", "0.10.2", False),
    ],
)
def test_options_are_asked_for_where_they_were_measured(monkeypatch, backend, machine, version, asked):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(jaxlib.version, "__version__", version)
    assert bool(compiler_options()) == asked


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ("--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT", False),
        ("--xla_cpu_enable_fast_math=false --xla_cpu_experimental_ynn_fusion_type=", False),
        ("--xla_cpu_enable_fast_math=false", True),
    ],
)
def test_a_users_own_choice_in_the_environment_is_kept(monkeypatch, flags, asked):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(jaxlib.version, "__version__", "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert bool(compiler_options()) == asked


@pytest.mark.slow
def test_an_option_would_win_over_the_environment():
    """Which is why it is left out there."""
    if compiler_options() is None:
        pytest.skip("asked for on x86 processors with jaxlib 0.10 to 0.12")
    program = """
import sys, jax, jax.numpy as jnp
from resnet_jax.distributed import compiler
options = compiler.compiler_options() if sys.argv[1] == "ours" else compiler._WITHOUT_CONVOLUTIONS
conv = jax.jit(lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"), compiler_options=options)
print("ynn" in conv.lower(jnp.ones((64, 64, 8, 8)), jnp.ones((64, 64, 3, 3))).compile().as_text())
"""
    flags = {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}
    found = [
        subprocess.run(
            [sys.executable, "-c", program, form], env={**os.environ, **flags}, capture_output=True, text=True
        )
        for form in ("ours", "always")
    ]
    assert [each.stdout.strip() for each in found] == ["True", "False"], found


def test_convolutions_are_left_to_xla():
    """And with XLA's own choice they are not, or the option would not be needed any more."""
    if compiler_options() is None:
        pytest.skip("asked for on x86 processors with jaxlib 0.10 to 0.12")

    def own(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, **CONV)

    x, kernel = jnp.ones((64, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
    theirs, ours = (
        jax.jit(own, compiler_options=options).lower(x, kernel).compile().as_text()
        for options in (None, compiler_options())
    )
    assert "ynn" in theirs
    assert "ynn" not in ours
