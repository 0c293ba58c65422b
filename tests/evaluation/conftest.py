import contextlib
import io
import warnings

import pytest

from resnet_jax.arguments import parse_config
from resnet_jax.evaluation.trained import load_trained
from resnet_jax.training import loop


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A short run on the digits."""
    directory = tmp_path_factory.mktemp("evaluation") / "run"
    fields = "model.depth=8 train.iterations=60 train.log_every=30 train.eval_every=60 dataset.validation_images=77"
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # ml_collections loads config files in a way that Python deprecates.
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
        loop.train(parse_config("digits", fields.split()), directory)
    return directory


@pytest.fixture(scope="session")
def trained(workdir):
    return load_trained(workdir)


@pytest.fixture(scope="session")
def logits(trained):
    """float32 logits of uint8 images."""

    def apply(images):
        return trained.model.apply(
            trained.variables, images.astype("float32") - trained.preprocessing.mean[None], train=False
        )

    return apply
