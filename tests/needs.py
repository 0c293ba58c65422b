"""What tests need of the machine: without it they are skipped, but not in CI."""

import os

import pytest


def unavailable(reason):
    """Skips a test for want of something that CI must have."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must not skip what needs it", pytrace=False)
    pytest.skip(reason)
