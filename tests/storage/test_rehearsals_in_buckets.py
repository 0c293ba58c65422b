"""The shortest and the longest of the packaged recipes over their whole length, with the workdir in a bucket."""

import pytest

from rehearsals import rehearse
from resnet_jax.files import expanded

pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_the_whole_length_of(name, place):
    rehearse(name, expanded(place, remote=True) / name)
