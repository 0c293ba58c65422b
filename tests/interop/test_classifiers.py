"""What is known of weights beside their tensors: flags, metadata, config.json, names; and what is printed of it.

No torch: the files are .safetensors.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import models
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.interop import origin, torch_weights
from resnet_jax.interop.classifiers import load_torch, save_torch
from resnet_jax.interop.files import read_weights, write_tensors
from torch_networks import tensors_of_ours

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# As timm writes it beside resnet18.a1_in1k.
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "test_crop_pct": 0.95,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.125],
        "label_names": ["ant", "bee", "cat"],
    },
}


@pytest.fixture(scope="module")
def resnet18():
    return tensors_of_ours("resnet18")


@pytest.fixture(scope="module")
def resnet50():
    return tensors_of_ours("resnet50")


@pytest.fixture(scope="module")
def resnet20():
    return tensors_of_ours("cifar_resnet8", 10)


@pytest.fixture
def read(tmp_path):
    """Writes tensors with a name, and a config.json beside them, and reads the network: it and what was printed."""

    def _read(tensors, name="model.safetensors", config=None, metadata=None, **stated):
        write_tensors(tmp_path / name, tensors, metadata)
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        said = []
        return load_torch(tmp_path / name, log=said.append, **stated), said

    return _read


def refused(read, message, *arguments, **stated):
    with pytest.raises(InputError, match=message) as caught:
        read(*arguments, **stated)
    assert "\n" not in str(caught.value)


def view(network):
    ours = network.preprocessing
    return network.image_shape[0], ours.resize_size, ours.interpolation


def statistics(network):
    return (np.asarray(each).ravel().tolist() for each in (network.preprocessing.mean, network.preprocessing.std))


def of_255(values):
    return (255 * np.array(values, np.float32)).tolist()


def test_what_is_assumed_is_printed_line_by_line(read, resnet18):
    network, said = read(resnet18)
    assert said == [
        "model=resnet18 (the tensors; that nothing is anti-aliased or dilated, which tensors do not show, is assumed)",
        "stem_pool_padding=torch (assumed, as torchvision's)",
        "batch_norm_epsilon=1e-05 (assumed, as torchvision's)",
        "mean=0.485,0.456,0.406 (assumed, as torchvision's)",
        "std=0.229,0.224,0.225 (assumed, as torchvision's)",
        "channel_order=rgb (assumed, as torchvision's)",
        "image_size=224 (assumed, as torchvision's)",
        "resize=256 (assumed, as torchvision's)",
        "interpolation=bilinear (assumed, as torchvision's)",
        "class_names=class 0, class 1, class 2 (assumed of 3 classes)",
    ]
    assert list(statistics(network)) == [of_255(each) for each in IMAGENET]


@pytest.mark.slow
def test_of_bottlenecks_and_cifar_networks_other_things_are(read, resnet50, resnet20):
    _, said = read(resnet50)
    assert "bottleneck_stride=3x3 (assumed, as torchvision's)" in said
    _, said = read(resnet20)
    assert "shortcut_padding=both (assumed, as akamaster's)" in said
    assert not [line for line in said if line.startswith(("bottleneck_stride", "stem_pool_padding", "resize"))]
    assert said[-1].endswith("own statistics want mean=0.4914,0.4822,0.4465 std=0.2023,0.1994,0.201")


def test_what_the_user_states_counts_before_all_else(read, resnet18):
    stated = {
        "model": "resnet18",
        "stem_pool_padding": "caffe",
        "batch_norm_epsilon": 1e-3,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5,),
        "image_size": 288,
        "resize": 303,
        "interpolation": "bilinear",
        "class_names": ("x", "y", "z"),
    }
    network, said = read(resnet18, "resnetblur18.safetensors", CONFIG, **stated)
    assert (network.model.stem_pool_padding, network.model.epsilon) == ("caffe", 1e-3)
    assert view(network) == (288, 303, "bilinear")
    assert list(statistics(network)) == [of_255((0.1, 0.2, 0.3)), of_255((0.5, 0.5, 0.5))]
    assert network.class_names == ("x", "y", "z")
    assert "image_size=288 (given; config.json says 224)" in said
    assert "mean=0.1,0.2,0.3 (given; config.json says 0.5,0.4,0.3)" in said
    assert said[0].startswith("config.json also names larger images for tests: image_size=288 resize=303")
    assert said[1].startswith("model=resnet18 is used, although by the name resnetblur18.safetensors")


def test_timms_config(read, resnet18):
    network, said = read(resnet18, config=CONFIG)
    assert view(network) == (224, 235, "bicubic")
    assert list(statistics(network)) == [of_255(CONFIG["pretrained_cfg"][name]) for name in ("mean", "std")]
    assert network.class_names == ("ant", "bee", "cat")
    assert "resize=235 (config.json)" in said
    assert "model=resnet18 (config.json)" in said
    # The older form is one table.
    older = CONFIG["pretrained_cfg"] | {"architecture": "resnet18", "num_classes": 3}
    assert view(read(resnet18, config=older)[0]) == (224, 235, "bicubic")
    # Another size than the one that the resizing belongs to.
    network, said = read(resnet18, config=CONFIG, image_size=160)
    assert view(network) == (160, 160 * 235 // 224, "bicubic")
    assert "resize=167 (in proportion, config.json)" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnetblur18"}, r"config\.json: its architecture is 'resnetblur18', which has anti-aliased"),
        ({"architecture": "seresnet18"}, "'seresnet18', which has attention"),
        ({"architecture": "convnext_tiny"}, "'convnext_tiny', which is none of the paper"),
        ({"model_args": {"output_stride": 16}}, r'model_args \{"output_stride": 16\} make another network'),
        ({"model_args": {"aa_layer": "avg", "num_classes": 3}}, r'model_args \{"aa_layer": "avg"\}'),
        ({"global_pool": "max"}, "global_pool is 'max'"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation is 'lanczos', and this package has bilinear"),
        ({"pretrained_cfg": {"input_size": [3, 224, 192]}}, "images here are square"),
        ({"pretrained_cfg": {"input_size": 224}}, "is not as timm writes it"),
        ({"pretrained_cfg": {"mean": [0.5, 0.5], "std": [0.5, 0.5]}}, r"mean is 0\.5,0\.5, but it must be three"),
    ],
)
def test_a_config_of_another_network_or_view(change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    try:
        (found,) = origin.statements(tmp_path / "model.safetensors", {}, lambda line: None)
    except InputError as error:
        said = str(error)
    else:
        said = f"{found.source}: {found.refusal}"
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnetblur18"}, r"by config\.json: its .* anti-aliased.*say so: model=resnet18$"),
        ({"architecture": "resnet50"}, r"of a resnet18 by their names and shapes, but the model is resnet50"),
        ({"num_classes": 7}, r"have 3 classes, but num_classes \(config\.json\) has 7"),
        ({"label_names": ["ant", "bee"]}, r"3 classes, but class_names \(config\.json\) has 2"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(change, message, read, resnet18):
    refused(read, message, resnet18, config=CONFIG | change)


@pytest.mark.parametrize("text", ["{", "[1]", '{"model": {"depth": 18}}'])
def test_a_config_of_something_else_is_left_aside_and_named(text, read, resnet18, tmp_path):
    (tmp_path / "config.json").write_text(text)
    network, said = read(resnet18)
    assert view(network) == (224, 256, "bilinear")
    assert "config.json" in said[0]
    assert "left aside" in said[0]


@pytest.mark.slow
def test_caffes_networks_by_what_is_asked_of_the_user(read, resnet50):
    stated = {"channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0,), "stem_pool_padding": "caffe"}
    refused(
        read,
        r"by the name resnet50_msra.*State it: --bottleneck_stride=1x1",
        resnet50,
        "resnet50_msra-5891d200.safetensors",
    )
    network, said = read(resnet50, "resnet50_msra-5891d200.safetensors", bottleneck_stride="1x1", **stated)
    assert torch_weights.conventions(network.model) == {
        "batch_norm_epsilon": 1e-5,
        "stem_pool_padding": "caffe",
        "bottleneck_stride": "1x1",
    }
    assert network.preprocessing.channel_order == "bgr"
    assert list(statistics(network)) == [np.float32([103.53, 116.28, 123.675]).tolist(), [1.0] * 3]
    assert "mean=103.53,116.28,123.675 (given)" in said
    # ImageNet's own are known of RGB.
    network, _ = read(resnet50, "model.safetensors", channel_order="bgr")
    assert next(statistics(network)) == of_255(IMAGENET[0])[::-1]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"model": "resnetblur18"}, "^model=resnetblur18 names a network with anti-aliased .* does not build"),
        ({"model": "resnet26"}, "^model=resnet26: ImageNet networks have 18, 34"),
        ({"model": "resnet34"}, r"weights are of a resnet18 .* but the model is resnet34 \(given\)"),
        ({"model": "plain18"}, r"weights are of a resnet18 .* but the model is plain18 \(given\)"),
        ({"bottleneck_stride": "2x2"}, "^bottleneck_stride=2x2 is not one of 1x1, 3x3"),
        ({"interpolation": "nearest"}, "interpolation=nearest is not one of bilinear, bicubic"),
        ({"mean": (0.5, 0.5, 0.5)}, "^mean and std belong together"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, r"^mean is 0\.5,0\.5, but it must be three numbers"),
        ({"mean": (0.5,), "std": (0.0,)}, r"^std is 0\.0, but .* above 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "^mean is nan"),
        ({"batch_norm_epsilon": 0.0}, r"^batch_norm_epsilon=0\.0 must be a number above 0"),
        ({"image_size": 0}, "^image_size=0 must be a number above 0"),
        ({"resize": 200}, r" resize=200 \(given\) is less than image_size=224 \(assumed, as torchvision's\)"),
        ({"class_names": ("a", "b")}, r"3 classes, but class_names \(given\) has 2"),
    ],
)
def test_statements_that_cannot_be(stated, message, read, resnet18):
    refused(read, message, resnet18, **stated)


def test_a_plain_network_is_what_the_user_says(read):
    tensors = tensors_of_ours("cifar_resnet8", 10, shortcut_padding="both")
    network, said = read(tensors, model="cifar_plain8")
    assert network.model.shortcut is None
    assert said[0] == "model=cifar_plain8 (given)"


def test_what_is_written_comes_back_as_it_was(tmp_path, resnet50):
    """A network that is nothing like torchvision's, with a mean image: to the bit, whatever the file is called."""
    path = tmp_path / "my_resnetv2.safetensors"
    model = models.create("resnet50", num_classes=3, bottleneck_stride="1x1", stem_pool_padding="caffe", epsilon=2e-5)
    variables = torch_weights.from_torch(resnet50, model, "own")
    mean = np.random.default_rng(3).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    preprocessing = Preprocessing(jnp.asarray(mean), jnp.ones((1, 1, 3)), "bgr", 11, "bicubic")
    before = Classifier(model, variables, preprocessing, ("één", "two", "three"), (8, 8, 3))
    said = []
    save_torch(before, path, log=said.append)
    after = load_torch(path, log=said.append)
    assert jax.tree.structure(before) == jax.tree.structure(after)  # everything that is no array is in it
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert "--bottleneck_stride=1x1 --stem_pool_padding=caffe --batch_norm_epsilon=2e-05" in said[0]
    assert "bottleneck_stride=1x1 (the file's metadata)" in said
    # Others are told that the file is torch's.
    assert read_weights(path)[1]["format"] == "pt"


# As the first version of this package's metadata was written, when some fields had other names.
VERSION_1 = (
    '{"version": 1, "model": {"family": "cifar_resnet", "depth": 8, "shortcut": "A", "zero_channels": "end", '
    '"stride_in": "3x3", "pool_alignment": "caffe", "batch_norm_epsilon": 2e-05}, '
    '"preprocessing": {"channel_order": "bgr", "image_size": 2, "resize": 3, "interpolation": "bilinear", '
    '"mean": {"shape": [2, 2, 3], "float32": "AAAAAAAAgD8AAABAAABAQAAAgEAAAKBAAADAQAAA4EAAAABBAAAQQQAAIEEAADBB"}, '
    '"std": [64.0, 64.0, 64.0]}, "class_names": ["a", "b", "c"], "dataset": "folder"}'
)


def test_metadata_of_the_first_version_are_read(read):
    network, said = read(tensors_of_ours("cifar_resnet8"), metadata={"resnet_jax": VERSION_1})
    fields = ("shortcut_padding", "bottleneck_stride", "stem_pool_padding", "epsilon")
    assert [getattr(network.model, field) for field in fields] == ["end", "3x3", "caffe", 2e-5]
    assert (network.image_shape, network.class_names) == ((2, 2, 3), ("a", "b", "c"))
    ours = network.preprocessing
    assert (ours.channel_order, ours.resize_size, ours.interpolation) == ("bgr", 3, "bilinear")
    np.testing.assert_array_equal(ours.mean, np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    assert "shortcut_padding=end (the file's metadata)" in said


@pytest.mark.parametrize("damage", ["{", '{"version": 1}', '{"version": 1, "model": 3}', "[]"])
def test_metadata_that_are_damaged_or_newer(damage, read, resnet18):
    refused(read, "its metadata .* is damaged", resnet18, metadata={"resnet_jax": damage})
    refused(
        read,
        "its metadata has version 3, and this resnet_jax reads versions up to 2: update it",
        resnet18,
        metadata={"resnet_jax": '{"version": 3}'},
    )


def test_grey_images(read):
    tensors = tensors_of_ours("cifar_resnet8", 10, channels=1)
    refused(read, "images of one channel: state their mean and std", tensors)
    network, _ = read(tensors, mean=(0.3,), std=(0.5,))
    assert network.image_shape == (32, 32, 1)
    assert network.variables["params"]["conv1"]["kernel"].shape == (3, 3, 1, 16)
    refused(read, " mean has 3 numbers, but the images have 1 channels", tensors, mean=(0.3,) * 3, std=(0.5,))
