"""What the functions of `rj.analysis` cannot use is refused in one line, before anything is computed."""

import re
from functools import partial

import numpy as np
import pytest

from resnet_jax import analysis
from resnet_jax.errors import InputError
from resnet_jax.evaluation import Classifier
from resnet_jax.models import DeepMLP, abstract_variables
from small_networks import random_images, small_classifier

IMAGES, LARGE = random_images(4), random_images(4, (18, 18, 1))
# It has no stages, and of its variables only the shapes are looked at.
MODEL, SHAPE = DeepMLP(3, 4, 3), (8, 8, 1)
NETWORK = Classifier(MODEL, abstract_variables(MODEL, SHAPE), lambda images: images, ("a", "b", "c"), SHAPE)
MAPS, BOX = np.ones((1, 4, 4)), [[(0, 0, 1, 1)]]
GHOST = small_classifier(bn_group_size=2)
PREACTIVATED = small_classifier(preactivation=True)


def crops(**given):
    return analysis.crop_consistency(NETWORK, LARGE, **given)


def circular(**given):
    return analysis.circular_consistency(NETWORK, IMAGES, **given)


def gradients(labels):
    return analysis.gradient_norms(NETWORK, IMAGES, labels)


REFUSED = {
    "offsets is 0": partial(crops, offsets=0),
    "group is 0": partial(crops, offsets=3, group=0),
    "passes is 0": partial(crops, offsets=3, passes=0),
    "batch_size is 0": partial(crops, offsets=3, batch_size=0),
    "seed is -1": partial(circular, seed=-1),
    "shift is 0": partial(circular, shift=0),
    "shift is 1.5": partial(circular, shift=1.5),
    "4 images and 1 labels": partial(circular, labels=np.zeros(1, int)),
    "4 images and 3 labels": partial(analysis.one_pixel_consistency, NETWORK, LARGE, np.zeros(3, int)),
    "4 images and labels (4, 1)": partial(
        analysis.transform_consistency, NETWORK, IMAGES, np.copy, np.zeros((4, 1), int)
    ),
    "4 images became 3": partial(analysis.relative_change, np.mean, IMAGES, lambda images: images[1:]),
    "images are (8, 8, 1)": partial(analysis.equivariance_errors, NETWORK, IMAGES[0], (1, 0)),
    "there is no image": partial(analysis.equivariance_errors, NETWORK, IMAGES[:0], (1, 0)),
    "DeepMLP has no stages": partial(analysis.equivariance_errors, NETWORK, IMAGES, (1, 0)),
    "a DeepMLP has no stages": partial(analysis.effective_field, NETWORK, IMAGES, "stage1"),
    "images are int32": partial(analysis.rotate, IMAGES.astype(np.int32), 10),
    "images are uint8 (0, 8, 8, 1)": partial(analysis.rotate, IMAGES[:0], 10),
    "the factor is 0": partial(analysis.scale, IMAGES, 0),
    "height is 0": partial(analysis.upsample, MAPS, 0, 4),
    "width is 4.5": partial(analysis.upsample, MAPS, 4, 4.5),
    "maps are (0, 4, 4)": partial(analysis.upsample, MAPS[:0], 4, 4),
    "maps are (4, 4), but they must be": partial(analysis.upsample, MAPS[0], 4, 4),
    "a box is (5.0, 5.0, 4.0, 4.0)": partial(analysis.box_iou, [(5, 5, 4, 4)], [(5, 5, 4, 4)]),
    "a box is (0.0, nan, 1.0, 1.0)": partial(analysis.box_iou, [(0, np.nan, 1, 1)], [(0, 0, 1, 1)]),
    "images are a list": partial(analysis.equivariance_errors, NETWORK, list(IMAGES), (1, 0)),
    "images are a list, but they must be one array": partial(GHOST, list(IMAGES)),
    "images are object": partial(analysis.equivariance_errors, NETWORK, IMAGES.astype(object), (1, 0)),
    "from 0 to 2, but 99 is among them": partial(gradients, np.full(4, 99)),
    "from 0 to 2, but -1 is among them": partial(circular, labels=np.array([0, 1, 2, -1])),
    "from 0 to 2, but 1.0 is among them": partial(gradients, np.ones(4)),
    "from 0 to 2, but 100 is among them": partial(
        analysis.transform_consistency, NETWORK, IMAGES, np.copy, np.full(4, 100)
    ),
    "the number of images is 3, but it must be a multiple of 2": partial(
        analysis.gradient_norms, GHOST, IMAGES[:3], np.zeros(3, int)
    ),
    "images is 3, but it must be a multiple of 2, which is the network's bn_group_size": partial(
        analysis.layer_responses, GHOST, IMAGES[:3], train=True
    ),
    "batch_size is 3, but it must be a multiple of 2, which is the network's bn_group_size": partial(
        analysis.layer_responses, GHOST, IMAGES, train=True, batch_size=3
    ),
    "2 of 5 3x3 convolutions, such as stage1/block1/conv2,": partial(analysis.layer_responses, PREACTIVATED, IMAGES),
    "grid is (4, 0), but it must be": partial(analysis.upsample, MAPS, 4, 4, grid=(4, 0)),
    "grid is (4,), but it must be": partial(analysis.upsample, MAPS, 4, 4, grid=(4,)),
    "threshold is 1": partial(analysis.largest_region, MAPS[0], 1),
    "scores are (1, 4, 4)": partial(analysis.largest_region, MAPS),
    "scores are (0, 4)": partial(analysis.largest_region, MAPS[0, :0]),
    "finite numbers": partial(analysis.largest_region, np.full((2, 2), np.nan)),
    "steps is 0": partial(analysis.max_box_accuracy, MAPS, BOX, steps=0),
    "list of (x0, y0, x1, y1)": partial(analysis.max_box_accuracy, MAPS, [[(0, 0, 1)]]),
    "each image needs a map": partial(
        analysis.plot_activation_maps, IMAGES, analysis.ActivationMaps(MAPS, np.zeros(1, int), MAPS[0]), "abc"
    ),
    "no table [6]": partial(analysis.paper_table, [6]),
    "no table '6': its tables are the whole numbers 1 to 14": partial(analysis.paper_table, "6"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_it_is_refused(message):
    with pytest.raises(InputError, match=re.escape(message)):
        REFUSED[message]()


def test_logits_without_a_largest_one_are_refused():
    nan = lambda images: np.full((len(images), 3), np.nan)  # noqa: E731
    with pytest.raises(InputError, match="not finite"):
        analysis.invariance._probabilities(nan, lambda places: IMAGES, 4, 4)


def test_a_transform_that_loses_images_is_refused():
    network = lambda images: np.zeros((len(images), 3))  # noqa: E731
    with pytest.raises(InputError, match="made 3 images of 4"):
        analysis.invariance._probabilities(network, lambda places: IMAGES[1:], 4, 4)
