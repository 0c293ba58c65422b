"""Packaged recipes over their whole length with the workdir in a bucket; of the longest docs/rehearsals.md tells."""

import pytest

from rehearsals import rehearse
from resnet_jax.files import expanded

pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.mark.parametrize("server", ["s3"], indirect=True)  # where moto answers twice as fast as fake-gcs-server
def test_the_whole_length_of_digits(place):
    rehearse("digits", expanded(place, remote=True) / "run")
