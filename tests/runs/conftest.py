import members
import pytest

from resnet_jax.runs.loop import train
from small_run import small_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a complete run of `small_config`, which tests copy before they change it, and its result."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    return directory, train(small_config(), directory).result


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of photographs, which tests copy before they change it."""
    return members.make_photographs(tmp_path_factory.mktemp("photographs"))
