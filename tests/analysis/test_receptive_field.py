"""Fields that are published for torchvision's networks, and those that gradients show."""

import numpy as np
import pytest

from resnet_jax.analysis import effective_field, receptive_fields
from resnet_jax.errors import InputError
from resnet_jax.models import Gates, HighwayNet, create
from small_networks import random_images, small_classifier


# Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, 2019, have 483, 1027 and 1507 for
# ResNet-50, -101 and -152 whose stride is in the first 1x1 convolution, and 212 for VGG-16's last pooling. The others
# follow from their formula.
@pytest.mark.parametrize(
    ("name", "fields", "size"),
    [
        ("resnet18", {}, 435),
        ("resnet34", {}, 899),
        ("resnet50", {}, 483),
        ("resnet50", {"bottleneck_stride": "3x3"}, 427),
        ("resnet101", {}, 1027),
        ("vgg16", {}, 212),
    ],
)
def test_imagenet_networks_see_what_is_published(name, fields, size):
    last = receptive_fields(create(name, **fields))[-1]
    assert (last.name, last.size, last.stride) == ("stage5" if name == "vgg16" else "stage4", size, 32)


def test_layers_are_listed_in_their_order():
    fields = {each.name: each for each in receptive_fields(create("cifar_resnet14"))}
    sizes = {name: field.size for name, field in fields.items() if name.startswith(("conv1", "stage2"))}
    # conv1 and four convolutions of stage 1 see 11 pixels; the next one is still of stride 1.
    expected = {"block1/conv1": 13, "block1/conv2": 17, "block2/conv1": 21, "block2/conv2": 25}
    assert sizes == {"conv1": 3} | {f"stage2/{name}": size for name, size in expected.items()} | {"stage2": 25}
    assert fields["stage3"] == ("stage3", 53, 4, -26)
    others = [create("cifar_preact14"), create("cifar_highway14", gates=Gates(carry="learned"))]
    assert [receptive_fields(each) for each in others] == [list(fields.values())] * 2


def test_gradients_reach_the_whole_field_and_no_further():
    classifier = small_classifier((32, 32, 1), widths=(6, 6))
    images = random_images(8, (32, 32, 1))
    field = receptive_fields(classifier.model)[-1]
    seen = effective_field(classifier, images, field.name)
    first, last = field.of_unit(8)
    for axis in range(2):
        touched = np.flatnonzero(seen.any(axis))
        assert (touched[0], touched[-1]) == (first, last)
    assert seen.sum() == pytest.approx(1, abs=1e-5)
    frozen = classifier.replace(model=classifier.model.clone(freeze="backbone"))
    assert np.array_equal(effective_field(frozen, images, field.name), seen)
    # Of 13 x 13 pixels the middle 7 x 7, a share of 0.29.
    assert seen[first + 3 : last - 2, first + 3 : last - 2].sum() > 0.5
    with pytest.raises(InputError, match="for ResNets and VGGs"):
        receptive_fields(HighwayNet())
    with pytest.raises(InputError, match="stages are stage1, stage2, stem"):
        effective_field(classifier, images, "fc")
