import shutil
from types import SimpleNamespace

import finetuning
import members
import pytest

from resnet_jax.runs import storage_checks
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


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """A folder of 14 photographs, see `finetuning`."""
    return finetuning.make_photographs(tmp_path_factory.mktemp("coloured"))


@pytest.fixture(scope="session")
def torch_file(tmp_path_factory):
    """A file of weights, see `finetuning`."""
    return finetuning.make_weights(tmp_path_factory.mktemp("weights") / "resnet8.safetensors")


@pytest.fixture(scope="session")
def finetuned(torch_file, coloured, tmp_path_factory):
    """A complete run on the photographs that began with the file; and what it printed."""
    directory = tmp_path_factory.mktemp("finetuned") / "run"
    return train(finetuning.finetune(torch_file, coloured), directory)


@pytest.fixture(scope="module")
def roomy_disk():
    """As if this machine's disk had room and were quick enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**40))
        patch.setattr(storage_checks, "SLOW_FILE", 1e9)
        patch.setattr(storage_checks, "_LARGEST", 2**19)
        yield
