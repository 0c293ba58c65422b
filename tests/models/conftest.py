"""Networks are tested where JAX promotes no dtype by itself: what a network widens or narrows, it says."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield
