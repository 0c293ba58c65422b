from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from networks import random_variables

from resnet_jax.configs import parsing
from resnet_jax.data import small, stream
from resnet_jax.data.augment import augment_images, pad_crop_mirror
from resnet_jax.data.batch import shuffled
from resnet_jax.data.images import open_images
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.recalibration import recalibrate
from resnet_jax.models import ResNet
from resnet_jax.models.conv import Conv
from resnet_jax.rng import stream as random_stream
from resnet_jax.runs import build, loop
from resnet_jax.runs.loading import load_run
from resnet_jax.runs.recalibrate import recalibrate_run
from small_networks import small_classifier

BATCHES = 3


def pooled(model, variables, batches, bn_group_size):
    """By NumPy, over the outputs of all convolutions in all batches: each is what a batch norm sees."""
    model = model.clone(bn_group_size=bn_group_size)

    @jax.jit
    def captured(images):
        _, found = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, Conv),
        )
        return found["intermediates"]

    outputs = [traverse_util.flatten_dict(captured(images)) for images in batches]
    expected = {}
    for *block, conv, _ in outputs[0]:
        arrays = [np.float64(each[*block, conv, "__call__"][0]) for each in outputs]
        # Of scanned blocks (blocks, images, height, width, channels).
        values = np.concatenate(arrays, axis=-4)
        axes = (-4, -3, -2)
        norm = conv.replace("conv", "bn")
        expected[*block, norm, "mean"] = values.mean(axes)
        expected[*block, norm, "var"] = values.var(axes, ddof=1)
    return traverse_util.unflatten_dict(expected)


def compare(found, expected, before):
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        other = dict(jax.tree_util.tree_leaves_with_path(expected))[path]
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)
        assert not np.allclose(leaf, dict(jax.tree_util.tree_leaves_with_path(before))[path], rtol=1e-2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits") / "run"
    fields = "model.depth=8 mesh.data=1 train.iterations=4 train.batch_size=64 model.bn_group_size=32 train.log_every=4"
    loop.train(parsing.load("digits", fields.split()), directory)
    return load_run(directory)


def test_statistics_are_averages_over_training_batches(digits):
    config, before, train = digits.config, digits.classifier, small.load("digits").train

    def images(step):
        rows = shuffled(jnp.arange(64, dtype=jnp.uint32) + 64 * step, jnp.zeros(64, jnp.uint32), len(train), 0)
        key = jax.random.fold_in(random_stream(0, "augmentation"), step)
        return pad_crop_mirror(key, before.preprocessing(jnp.asarray(train.images[rows])), config.dataset.pad, False)

    expected = pooled(before.model, before.variables, [images(step) for step in range(BATCHES)], 32)
    found = recalibrate_run(digits, BATCHES)
    compare(found.variables["batch_stats"], expected, before.variables["batch_stats"])
    assert found.variables["params"] is before.variables["params"]
    assert found.replace(variables=None) == before.replace(variables=None)


@pytest.mark.test_data
def test_of_photographs(digits, test_data):
    """A small network is shown the windows that training would be shown."""
    fields = ["train.batch_size=8", "stream.image_size=32", "stream.scales=(37, 69)", "stream.resize_size=37"]
    config = parsing.load("imagenet", [*fields, f"dataset.data_dir={test_data / 'tfds'}"])
    model = build.model(parsing.load("cifar10", ["model.depth=8", "model.bn_group_size=none"]), num_classes=10)
    train = open_images("imagenet2012", str(test_data / "tfds")).train
    preprocessing = Preprocessing(jnp.full((1, 1, 3), 120.0), jnp.full((1, 1, 3), 60.0))
    variables = random_variables(model, 32, 0)
    classifier = digits.classifier.replace(
        model=model, variables=variables, preprocessing=preprocessing, image_shape=(32, 32, 3)
    )

    windows = stream.TrainBatches(
        train, stream.Cropping("random_scale", (37, 69), 32), seed=0, batch_size=8, start=0, num_workers=0
    )
    images = []
    for step in range(BATCHES):
        key = jax.random.fold_in(random_stream(0, "augmentation"), step)
        images.append(augment_images(key, jnp.asarray(next(windows).images), preprocessing, 0.1, True))
    windows.close()
    expected = pooled(model, variables, images, None)
    found = recalibrate_run(replace(digits, config=config, classifier=classifier), BATCHES)
    compare(found.variables["batch_stats"], expected, variables["batch_stats"])


# (group size, accumulate) and which of eight images share statistics.
GROUPINGS = {
    (4, 1): [[0, 1, 2, 3], [4, 5, 6, 7]],
    (2, 2): [[0, 1], [2, 3], [4, 5], [6, 7]],
    (None, 1): [[0, 1, 2, 3, 4, 5, 6, 7]],
    (None, 2): [[0, 2, 4, 6], [1, 3, 5, 7]],
}


@pytest.mark.parametrize(("bn_group_size", "grad_accum_steps"), GROUPINGS)
def test_the_variance_of_group_means_is_part_of_the_variance(bn_group_size, grad_accum_steps):
    """Images that are far apart: each group's variance is small, that of all of them is not."""
    model = ResNet((2,), (4,), False, "cifar", 3, "B", bn_group_size=bn_group_size)
    variables = random_variables(model, 8, 0)
    rng = np.random.default_rng(3)
    brightness = 10 * np.arange(16).reshape(2, 8, 1, 1, 1)
    batches = np.float32(rng.normal(size=(2, 8, 8, 8, 3)) + brightness)
    classifier = Classifier(model, variables, None, ("a", "b", "c"), (8, 8, 3))
    found = recalibrate(classifier, batches, grad_accum_steps).variables["batch_stats"]

    groups = [jnp.asarray(images[rows]) for images in batches for rows in GROUPINGS[bn_group_size, grad_accum_steps]]
    expected = pooled(model, variables, groups, None)
    assert jax.tree.structure(found) == jax.tree.structure(jax.device_get(variables["batch_stats"]))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-4), found, expected)


GIVEN = np.zeros((4, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("batches", "steps", "fields", "message"),
    [
        (iter(GIVEN), 1, {}, r"a batch is \(8, 8, 1\).*such as \[images\]"),
        ([GIVEN, GIVEN[:2]], 1, {}, r"a batch is \(2, 8, 8, 1\).*equally large"),
        ([GIVEN], 3, {}, "the size of a batch is 4, but it must be a multiple of 3, which is grad_accum_steps"),
        ([GIVEN], 1, {"bn_group_size": 3}, "must be a multiple of 3, which is bn_group_size"),
        ([np.zeros((4, 8, 8, 3), np.uint8)], 1, {}, "the network's 1 channels"),
    ],
)
def test_what_are_no_batches_is_refused(batches, steps, fields, message):
    with pytest.raises(InputError, match=message):
        recalibrate(small_classifier(**fields), batches, steps)


def test_no_batches(digits):
    for batches in (0, -1):
        with pytest.raises(InputError, match=r"averaged over .* batches, but it must be at least 1"):
            recalibrate_run(digits, batches)
