from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from resnet_jax import arguments, build
from resnet_jax.data import photographs, sources, stream
from resnet_jax.data.augment import augment_photographs, pad_crop_mirror
from resnet_jax.data.pipeline import shuffled
from resnet_jax.errors import InputError
from resnet_jax.evaluation.recalibrate import recalibrate
from resnet_jax.evaluation.trained import load_trained
from resnet_jax.rng import stream as random_stream
from resnet_jax.training import loop

BATCHES = 3


def cumulative(model, variables, images_of_steps):
    """The same averages by another way: momentum k / (k + 1) makes running statistics the average of k + 1 batches."""

    @jax.jit
    def updates(momentum, variables, images):
        return model.clone(momentum=momentum).apply(variables, images, train=True, mutable=["batch_stats"])[1]

    for k, images in enumerate(images_of_steps):
        updated = updates(k / (k + 1), variables, images)
        variables = {**variables, **updated}
    return variables["batch_stats"]


def compare(found, expected, before):
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        other = dict(jax.tree_util.tree_leaves_with_path(expected))[path]
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)
        assert not np.allclose(leaf, dict(jax.tree_util.tree_leaves_with_path(before))[path], rtol=1e-2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits") / "run"
    fields = "model.depth=8 mesh.data=1 train.iterations=4 train.batch_size=64 model.group_size=32 train.log_every=4"
    loop.train(arguments.parse_config("digits", fields.split()), directory)
    return load_trained(directory)


def test_statistics_are_averages_over_training_batches(digits):
    config, train = digits.config, sources.load("digits").train

    def images(step):
        rows = shuffled(jnp.arange(64, dtype=jnp.uint32) + 64 * step, jnp.zeros(64, jnp.uint32), len(train), 0)
        key = jax.random.fold_in(random_stream(0, "augmentation"), step)
        return pad_crop_mirror(key, digits.preprocessing(jnp.asarray(train.images[rows])), config.dataset.pad, False)

    expected = cumulative(digits.model, digits.variables, [images(step) for step in range(BATCHES)])
    found = recalibrate(digits, BATCHES)
    compare(found.variables["batch_stats"], expected, digits.variables["batch_stats"])
    assert found.variables["params"] is digits.variables["params"]
    assert replace(found, variables=None) == replace(digits, variables=None)


@pytest.mark.test_data
def test_of_photographs(digits, test_data):
    """A small network is shown the windows that training would be shown."""
    fields = ["train.batch_size=8", "stream.side=32", "stream.scales=(37, 69)", "stream.shorter_side=37"]
    config = arguments.parse_config("imagenet", [*fields, f"dataset.data_dir={test_data / 'tfds'}"])
    model = build.model(arguments.parse_config("cifar10", ["model.depth=8"]), num_classes=10)
    train = photographs.open_photographs("imagenet2012", str(test_data / "tfds")).train
    preprocessing = digits.preprocessing.replace(mean=jnp.full((1, 1, 3), 120.0), std=jnp.full((1, 1, 3), 60.0))
    variables = random_variables(model, 32, 0)
    trained = replace(digits, config=config, model=model, variables=variables, preprocessing=preprocessing)

    windows = stream.train_batches(
        train, stream.Cropping("scale", (37, 69), 32), seed=0, batch_size=8, start=0, workers=0
    )
    images = []
    for step in range(BATCHES):
        key = jax.random.fold_in(random_stream(0, "augmentation"), step)
        images.append(augment_photographs(key, jnp.asarray(next(windows).images), preprocessing, 0.1, True))
    windows.close()
    expected = cumulative(model, variables, images)
    found = recalibrate(trained, BATCHES)
    compare(found.variables["batch_stats"], expected, variables["batch_stats"])


def test_no_batches(digits):
    with pytest.raises(InputError, match="averaged over 0 batches, but it must be at least 1"):
        recalibrate(digits, 0)
