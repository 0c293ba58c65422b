import contextlib
import io
from functools import partial

import jax
import numpy as np
import pytest
import slow_reference as slow
from networks import save_run

from resnet_jax.configs.parsing import load as parse_config
from resnet_jax.data.images import open_images
from resnet_jax.runs import loop
from resnet_jax.runs.loading import load


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A short run on the digits."""
    directory = tmp_path_factory.mktemp("evaluation") / "run"
    fields = (
        "model.depth=8 mesh.data=1 train.batch_size=16 train.iterations=60 train.log_every=30 train.eval_every=60 "
        "dataset.validation_images=77"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        loop.train(parse_config("digits", fields.split()), directory)
    return directory


@pytest.fixture(scope="session")
def trained(workdir):
    return load(workdir)


@pytest.fixture(scope="session")
def logits(trained):
    """float32 logits of uint8 images."""
    apply = jax.jit(partial(trained.model.apply, train=False))
    return lambda images: apply(trained.variables, images.astype("float32") - trained.preprocessing.mean[None])


@pytest.fixture(scope="session")
def photograph_data(test_data):
    """ImageNet with 200 photographs to train on and 100 to validate on."""
    return open_images("imagenet2012", str(test_data / "tfds"))


@pytest.fixture(scope="session")
def photographs(photograph_data):
    """All 300, not decoded."""
    splits = (photograph_data.train, photograph_data.validation)
    return [split[i] for split in splits for i in range(len(split))]


@pytest.fixture(scope="session")
def known(photograph_data):
    """The central 32 x 32 windows of the photographs to validate on, and their labels."""
    found = [photograph_data.validation[i] for i in range(100)]
    windows = [slow.center_crop(slow.resized(slow.opened(each), 37), 32) for each in found]
    return np.array(windows), [each.label for each in found]


@pytest.fixture(scope="session")
def photograph_runs(photograph_data, known, test_data, tmp_path_factory):
    """The workdirs of two networks of different depth."""
    root = tmp_path_factory.mktemp("photograph_runs")
    return [
        save_run(
            root / f"depth{depth}",
            photograph_data.class_names,
            *known,
            depth=depth,
            seed=depth,
            data_dir=str(test_data / "tfds"),
        )
        for depth in (8, 14)
    ]
