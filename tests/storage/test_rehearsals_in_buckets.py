"""Packaged recipes over their whole length with the workdir in a bucket; of the longest docs/rehearsals.md tells."""

import pytest

from rehearsals import rehearse
from resnet_jax.files import expanded
from resnet_jax.runs.checkpoints import Checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.mark.parametrize("server", ["s3"], indirect=True)  # where moto answers twice as fast as fake-gcs-server
def test_the_whole_length_of_digits(place, monkeypatch):
    # Its steps take no time: a save that is left out for the one before would be one that a real run makes.
    monkeypatch.setattr(Checkpoints, "may_leave_out", lambda self, step: False)
    rehearse("digits", expanded(place, remote=True) / "run")
