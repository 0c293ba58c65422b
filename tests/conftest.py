"""Eight CPU devices, strict broadcasting, quick compilation and a cache of it for every test; set before JAX starts."""

import gc
import os
from importlib import metadata
from pathlib import Path

# The environment, so that the processes that tests start share them.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "resnet_jax" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most tests compile for seconds and compute for milliseconds; those that compute are marked `optimized`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's newer emitters double what is left of that; jax 0.12 has no others.
if metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax
import pytest

# As `cli.run` does; it is a fifth of the time of files that trace much.
gc.set_threshold(10_000)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def _optimized(request):
    """Of a module marked `optimized`, programs are compiled with all optimisations."""
    quick = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    if request.node.get_closest_marker("optimized"):
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = quick
    jax.config.update("jax_disable_most_optimizations", quick != "0")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of images and reference weights that RESNET_JAX_TEST_DATA names; CI must have it."""
    folder = os.environ.get("RESNET_JAX_TEST_DATA")
    if not folder:
        reason = "RESNET_JAX_TEST_DATA does not name the folder of test images"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI must not skip what needs them")
        pytest.skip(reason)
    if not Path(folder).is_dir():
        pytest.fail(f"RESNET_JAX_TEST_DATA is {folder!r}, which is not a folder")
    return Path(folder)
