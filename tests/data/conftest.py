import pytest

from resnet_jax.data.images import open_images


@pytest.fixture(scope="module")
def photograph_files(test_data):
    """Every sixth of the real photographs, as bytes."""
    data = open_images("imagenet2012", str(test_data / "tfds"))
    return [split[i].data for split in (data.train, data.validation) for i in range(0, len(split), 6)]
