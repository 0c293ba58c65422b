"""The least work of a network, counted by hand, and the peaks that it is set beside."""

import jax
import pytest

from resnet_jax.benchmark.roofline import Work, device_peaks, least_work, roofline
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import ResNet, create, init

# On images of 4 x 4: maps of 16 pixels with 2 channels, then of 4 pixels with 6.
TINY = ResNet(stage_sizes=(1, 1), widths=(2, 6), bottleneck=False, stem="cifar", num_classes=3, shortcut="B")


def test_inference_by_hand():
    assert least_work(TINY, 4, train=False) == [
        # 9 * 3 -> 2 channels; 48 values are read and 32 written.
        Work("conv1", 2 * 16 * 54, 4 * (48 + 32), 4 * 54),
        Work("bn1", 0, 0, 4 * 4),
        Work("stage1/block1/conv1", 2 * 16 * 36, 4 * (32 + 32), 4 * 36),
        Work("stage1/block1/bn1", 0, 0, 4 * 4),
        Work("stage1/block1/conv2", 2 * 16 * 36, 4 * (32 + 32), 4 * 36),
        Work("stage1/block1/bn2", 0, 0, 4 * 4),
        Work("stage2/block1/conv1", 2 * 4 * 108, 4 * (32 + 24), 4 * 108),
        Work("stage2/block1/bn1", 0, 0, 4 * 12),
        Work("stage2/block1/conv2", 2 * 4 * 324, 4 * (24 + 24), 4 * 324),
        Work("stage2/block1/bn2", 0, 0, 4 * 12),
        # 4 of the 16 pixels.
        Work("stage2/block1/shortcut/conv", 2 * 4 * 12, 4 * (8 + 24), 4 * 12),
        Work("stage2/block1/shortcut/bn", 0, 0, 4 * 12),
        Work("fc", 2 * 18, 4 * (6 + 3), 4 * (18 + 3)),
    ]


def test_training_by_hand():
    found = {work.name: work for work in least_work(TINY, 4, train=True)}
    # Forward 48 and 32 values, backward again, and no gradient of the images.
    assert found["conv1"] == Work("conv1", 2 * 2 * 16 * 54, 4 * 2 * (48 + 32), 24 * 54)
    name = "stage2/block1/conv1"
    assert found[name] == Work(name, 3 * 2 * 4 * 108, 4 * (32 + 24 + 24 + 32 + 32), 24 * 108)
    # Read and written; read for the sums; map and gradient read, and a gradient written.
    assert found["bn1"] == Work("bn1", 0, 4 * 32 * (2 + 1 + 3), 24 * 4)
    assert found["fc"] == Work("fc", 3 * 2 * 18, 4 * (6 + 3 + 3 + 6 + 6), 24 * 21)


def test_bfloat16_halves_maps_and_nothing_else():
    for train in (False, True):
        pairs = zip(
            least_work(TINY, 4, train=train), least_work(TINY.clone(dtype="bfloat16"), 4, train=train), strict=True
        )
        for wide, narrow in pairs:
            assert narrow.image_bytes == (wide.image_bytes if wide.name == "fc" else wide.image_bytes / 2)
            assert narrow._replace(image_bytes=wide.image_bytes) == wide


def test_pooling_reads_the_map_before_it():
    found = {work.name: work for work in least_work(create("resnet18"), 32, train=False)}
    assert found["pool1"] == Work("pool1", 0, 4 * 64 * (16 * 16 + 8 * 8), 0)


def test_the_least_time_is_that_of_the_slower_of_two_in_each_layer(known_peaks):
    bound = roofline(TINY, 4, 64, "float32", train=True)
    work = least_work(TINY, 4, train=True)
    assert bound["peaks"] == known_peaks
    assert bound["operations"] == 64 * sum(each.operations for each in work)
    # Each device has parameters of its own.
    moved = [64 * each.image_bytes + jax.device_count() * each.step_bytes for each in work]
    assert bound["bytes"] == sum(moved)
    times = [max(64 * each.operations / 2e11, each_moved / 3e10) for each, each_moved in zip(work, moved, strict=True)]
    assert bound["least_time"] == pytest.approx(sum(times))
    assert max(bound["operations"] / 2e11, bound["bytes"] / 3e10) <= bound["least_time"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peaks_are_measured_once(dtype):
    found = device_peaks(dtype)
    assert set(found) == {"operations_per_second", "bytes_per_second"}
    assert min(found.values()) > 0
    assert device_peaks(dtype) == found


def test_least_work_of_a_classifier_is_that_of_its_network_and_images():
    network, shape = create("cifar_resnet8", num_classes=2), (8, 8, 3)
    variables = init(network, shape, jax.random.key(0))
    classifier = Classifier(network, variables, Preprocessing.of_channels(), ("a", "b"), shape)
    assert least_work(classifier, train=True) == least_work(network, 8, train=True)
