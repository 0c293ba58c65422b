import pytest

from resnet_jax.data.photographs import open_photographs


@pytest.fixture(scope="module")
def photograph_files(test_data):
    """Every sixth of the real photographs, as bytes."""
    data = open_photographs("imagenet2012", str(test_data / "tfds"))
    return [split[i].data for split in (data.train, data.validation) for i in range(0, len(split), 6)]
