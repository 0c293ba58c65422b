"""Eight CPU devices, strict broadcasting, quick compilation and a cache of it for every test; set before JAX starts.

At the end of the tests, a line says what was left to `make test-all`.
"""

import collections
import contextlib
import ctypes
import gc
import importlib.util
import io
import os
from importlib import metadata
from pathlib import Path

# The environment, so that the processes that tests start share them.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "resnet_jax" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# What is installed here must not change what is tested; test_onednn.py switches it on.
os.environ.setdefault("RESNET_JAX_ONEDNN", "0")
# Most tests compile for seconds and compute for milliseconds; those that compute are marked `optimized`, and
# `make test-all` compiles what computes once more as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's newer emitters double what is left of that; jax 0.12 has no others.
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax
import jaxtyping
import pytest

from needs import unavailable

# As `cli.run` does; it is a fifth of the time of files that trace much.
gc.set_threshold(10_000)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Shapes and dtypes that public functions state are checked where they are called.
jaxtyping.install_import_hook(
    [
        "resnet_jax.models",
        "resnet_jax.training",
        *(f"resnet_jax.data.{name}" for name in ("augment", "batch", "preprocessing", "resident")),
        *(f"resnet_jax.evaluation.{name}" for name in ("protocols", "recalibration")),
    ],
    "shapes.check",
)

# Why `make test` leaves a test out: the first of these markers that it has.
REASONS = {
    "torch": "need PyTorch",
    "test_data": "need the images that RESNET_JAX_TEST_DATA names",
    "slow": "start processes or train whole runs",
}
left_out = pytest.StashKey[collections.Counter]()


def pytest_configure(config):
    config.stash[left_out] = collections.Counter()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "test_data" in item.fixturenames:
            item.add_marker("test_data")


def pytest_deselected(items):
    for item in items:
        reason = next((reason for marker, reason in REASONS.items() if item.get_closest_marker(marker)), None)
        if reason:
            item.config.stash[left_out][reason] += 1


def pytest_sessionfinish(session):
    # A worker of pytest-xdist; all of them collect the same tests.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[left_out])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if error:
        from resnet_jax.sweeping.local import describe_status

        node.config.get_terminal_writer().line(f"\nOf a worker: {describe_status(node.gateway._io.popen.wait())}.")
    node.config.stash[left_out] = collections.Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[left_out]
    if counts and os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0":  # else this is make test-all
        parts = ", ".join(f"{count} that {reason}" for reason, count in counts.items())
        terminalreporter.write_line(f"Tests left to `make test-all`: {parts}.")
    missing = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")
    )
    for reason, count in missing.items():
        terminalreporter.write_line(f"Skipped: {count}, since {reason}.")


def pytest_runtest_setup(item):
    if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
        unavailable("PyTorch is not installed")


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


@pytest.fixture(scope="module", autouse=True)
def _memory():
    """glibc keeps what large arrays were in: measured, 2.5 GB after one file of tests, of which 0.8 were in use."""
    yield
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def run_of_20(tmp_path_factory) -> Path:
    """The folder of a complete run, with checkpoints of iteration 10 and 20, which tests copy before they change it."""
    from resnet_jax.runs import loop
    from small_run import OF_20, small_config

    directory = tmp_path_factory.mktemp("run_of_20") / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        loop.train(small_config(OF_20), directory)
    return directory


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of images and reference weights that RESNET_JAX_TEST_DATA names; CI must have it."""
    folder = os.environ.get("RESNET_JAX_TEST_DATA")
    if not folder:
        unavailable("RESNET_JAX_TEST_DATA does not name the folder of test images")
    if not Path(folder).is_dir():
        pytest.fail(f"RESNET_JAX_TEST_DATA is {folder!r}, which is not a folder")
    return Path(folder)
