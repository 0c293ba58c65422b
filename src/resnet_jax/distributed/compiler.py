"""What XLA's compiler is asked for where its own choice was measured to be slower."""

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import Any

import jax
import jaxlib.version
from jax.extend.core import get_opaque_trace_state

# XLA:CPU of jaxlib 0.10 to 0.12 gives convolutions, products and sums to YNNPACK. Without the convolutions, with jaxlib
# 0.10, a training step of ResNet-20 is 1.17 times as fast (Intel Xeon, 2 cores, 7 rounds in turn, all of them faster:
# 1.10 to 1.32), and on an AMD EPYC 1.21 times (14 of 14); without sums as well it is slower again. With jaxlib 0.12
# ResNet-20 gains nothing, but ResNet-50 1.25 times in training and 1.5 times in inference (8 images).
_WITHOUT_CONVOLUTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options() -> dict[str, Any] | None:
    """The `compiler_options` of `jax.jit` for the default devices; None where XLA's own choice is kept, or where
    `XLA_FLAGS` in the environment has one of them: an option here would win over it.
    """
    if any(name in os.environ.get("XLA_FLAGS", "") for name in _WITHOUT_CONVOLUTIONS):
        return None
    version = tuple(map(int, jaxlib.version.__version__.split(".")[:2]))
    measured = (0, 10) <= version < (0, 13) and platform.machine() in ("x86_64", "AMD64")
    return _WITHOUT_CONVOLUTIONS if measured and jax.default_backend() == "cpu" else None


def jit(function: Callable[..., Any], **arguments: Any) -> Any:
    """`jax.jit` with `compiler_options()`, for what a user may call in a function that JAX transforms or compiles.

    JAX refuses a function with options there; the options are left out then.
    """
    plain = jax.jit(function, **arguments)

    @cache  # when it is called, since an import must not start the devices
    def chosen() -> Any:
        options = compiler_options()
        return jax.jit(function, compiler_options=options, **arguments) if options else plain

    @wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        # Not by the arguments: what a function closes over can be traced as well.
        at_the_top = get_opaque_trace_state(convention="flax") == _TOP
        return (chosen() if at_the_top else plain)(*args, **keywords)

    vars(call)["lower"] = lambda *args, **keywords: chosen().lower(*args, **keywords)
    return call


# This file may be imported in a function that is traced; in a thread of its own nothing is.
with ThreadPoolExecutor(1) as _thread:
    _TOP = _thread.submit(get_opaque_trace_state, convention="flax").result()
