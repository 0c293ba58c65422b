import pytest

from resnet_jax.benchmark import roofline

PEAKS = {"operations_per_second": 2e11, "bytes_per_second": 3e10}


@pytest.fixture
def known_peaks(monkeypatch):
    """Peaks of the devices that need no measurement."""
    monkeypatch.setattr(roofline, "device_peaks", lambda dtype: PEAKS)
    return PEAKS
