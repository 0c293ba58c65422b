"""What is known of weights beside their tensors: flags, metadata, config.json, names; and what is printed of it.

No torch: the files are .safetensors.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import build, cli, models, sharding, workdir
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import base
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.predict import predict
from resnet_jax.evaluation.run_evaluate import evaluate_runs
from resnet_jax.evaluation.trained import load, load_run
from resnet_jax.interop import convert, origin, torch_weights
from resnet_jax.interop.classifiers import load_torch, save_torch
from resnet_jax.interop.export import describe
from resnet_jax.interop.files import read_weights, write_tensors
from resnet_jax.training.state import TrainState

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


def tensors_of(name, classes=3, channels=3, **fields):
    model = models.create(name, num_classes=classes, **fields)
    images = jnp.zeros((1, 32, 32, channels))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), variables)
    return torch_weights.to_torch(variables, model)


@pytest.fixture(scope="module")
def resnet18():
    return tensors_of("resnet18")


@pytest.fixture(scope="module")
def resnet50():
    return tensors_of("resnet50")


@pytest.fixture(scope="module")
def resnet20():
    return tensors_of("cifar_resnet8", 10)


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
    return network.image_shape[0], ours.shorter_side, ours.interpolation


def statistics(network):
    return (np.asarray(each).ravel().tolist() for each in (network.preprocessing.mean, network.preprocessing.std))


def of_255(values):
    return (255 * np.array(values, np.float32)).tolist()


def test_what_is_assumed_is_printed_line_by_line(read, resnet18):
    network, said = read(resnet18)
    assert said == [
        "model=resnet18 (the tensors; that nothing is anti-aliased or dilated, which tensors do not show, is assumed)",
        "pool_alignment=torch (assumed, as torchvision's)",
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


def test_of_bottlenecks_and_cifar_networks_other_things_are(read, resnet50, resnet20):
    _, said = read(resnet50)
    assert "stride_in=3x3 (assumed, as torchvision's)" in said
    _, said = read(resnet20)
    assert "zero_channels=both (assumed, as akamaster's)" in said
    assert not [line for line in said if line.startswith(("stride_in", "pool_alignment", "resize"))]
    assert said[-1].endswith("own statistics want --mean=0.4914,0.4822,0.4465 --std=0.2023,0.1994,0.201")


def test_what_the_user_states_counts_before_all_else(read, resnet18):
    stated = {
        "model": "resnet18",
        "pool_alignment": "caffe",
        "batch_norm_epsilon": 1e-3,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5,),
        "image_size": 288,
        "resize": 303,
        "interpolation": "bilinear",
        "class_names": ("x", "y", "z"),
    }
    network, said = read(resnet18, "resnetblur18.safetensors", CONFIG, **stated)
    assert (network.model.pool_alignment, network.model.epsilon) == ("caffe", 1e-3)
    assert view(network) == (288, 303, "bilinear")
    assert list(statistics(network)) == [of_255((0.1, 0.2, 0.3)), of_255((0.5, 0.5, 0.5))]
    assert network.class_names == ("x", "y", "z")
    assert "image_size=288 (given; config.json says 224)" in said
    assert "mean=0.1,0.2,0.3 (given; config.json says 0.5,0.4,0.3)" in said
    assert said[0].startswith("config.json also names larger images for tests: --image_size=288 --resize=303")
    assert said[1].startswith("--model=resnet18 is used, although by the name resnetblur18.safetensors")


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
        ({"architecture": "resnetblur18"}, r"by config\.json: its .* anti-aliased.*say so: --model=resnet18$"),
        ({"architecture": "resnet50"}, r"of a resnet18 by their names and shapes, but the model is resnet50"),
        ({"num_classes": 7}, r"has 3 classes, but num_classes \(config\.json\) has 7"),
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


def named(name):
    """What a name alone says."""
    return origin.statements(Path("nowhere", name), {}, lambda line: None)


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("resnet18-f37072fd.pth", "resnet18", (224, 256, "bilinear")),  # torchvision, V1
        ("resnet50-0676ba61.pth", "resnet50", (224, 256, "bilinear")),
        ("resnet50-11ad3fa6.pth", "resnet50", (224, 232, "bilinear")),  # V2
        ("ResNet152_Weights.IMAGENET1K_V2.safetensors", "resnet152", (224, 232, "bilinear")),
        ("resnet18_a1_0-d63eafa0.pth", "resnet18", (224, 235, "bicubic")),  # timm
        ("resnet34.a2_in1k.safetensors", "resnet34", (224, 235, "bicubic")),
        ("resnet50_ram-a26f946b.pth", "resnet50", (224, 235, "bicubic")),
        ("resnet50_b1k-532a802a.pth", "resnet50", (224, 235, "bicubic")),
        ("resnet18_a3_0-40c531c8.pth", "resnet18", (160, 168, "bicubic")),
        ("gluon_resnet50_v1b-0ebe02e2.pth", "resnet50", (224, 256, "bicubic")),
    ],
)
def test_names_that_publishers_give(name, model, expected):
    (found,) = named(name)
    assert found.fields["model"] == model
    assert tuple(found.fields[field] for field in ("image_size", "resize", "interpolation")) == expected
    assert [found.fields[field].tolist() for field in ("mean", "std")] == [of_255(each) for each in IMAGENET]


def test_names_of_cifar_networks():
    (found,) = named("resnet20-12fca82f.th")
    assert (found.fields["model"], found.fields["zero_channels"]) == ("cifar_resnet20", "both")
    assert found.fields["mean"].tolist() == of_255(IMAGENET[0])
    (found,) = named("cifar100_resnet56-f2eff4c8.pt")
    assert found.fields["model"] == "cifar_resnet56"
    assert found.fields["mean"].tolist() == of_255((0.5070, 0.4865, 0.4409))


@pytest.mark.parametrize(
    "name",
    [
        "resnetblur18-84f4748f",
        "resnetblur50",
        "resnetaa50_a1h-4cf422b3",
        "antialiased_resnet18",
        "resnet18_dilated",
        "resnet50_output_stride16",
        "deeplabv3_resnet50_coco-cd0a2569",
        "seresnet50_ra_224-8efdb4bb",
        "ecaresnet50d_p-e4fa23c2",
        "resnext50_32x4d-7cdf4587",
        "wide_resnet50_2-95faca4d",
        "resnet50_gn_a1h2-8fe6c4d0",
        "resnet50d_ra2-464e36ba",
        "gluon_resnet50_v1d-818a1b1b",
        "resnetv2_50_a1h-000cdf49",
        "resnet50_msra-5891d200",
    ],
)
def test_names_of_other_networks(name):
    (found,) = named(f"{name}.safetensors")
    assert found.refusal
    assert not found.fields


@pytest.mark.parametrize(
    "name",
    ["semi_supervised_resnet18-d92f0530", "rw_resnet50-86acaeed", "best-resnet18", "my_resnet18_a1_best", "unblurred"],
)
def test_names_that_say_nothing(name):
    assert named(f"{name}.safetensors") == []


def test_caffes_networks_by_what_is_asked_of_the_user(read, resnet50):
    stated = {"channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0,), "pool_alignment": "caffe"}
    refused(
        read, r"by the name resnet50_msra.*State it: --stride_in=1x1", resnet50, "resnet50_msra-5891d200.safetensors"
    )
    network, said = read(resnet50, "resnet50_msra-5891d200.safetensors", stride_in="1x1", **stated)
    assert torch_weights.conventions(network.model) == {
        "epsilon": 1e-5,
        "pool_alignment": "caffe",
        "stride_in": "1x1",
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
        ({"model": "resnetblur18"}, "--model=resnetblur18 names a network with anti-aliased .* does not build"),
        ({"model": "resnet26"}, "--model=resnet26: ImageNet networks have 18, 34"),
        ({"model": "resnet34"}, r"holds the weights of a resnet18 .* but the model is resnet34 \(given\)"),
        ({"model": "plain18"}, r"holds the weights of a resnet18 .* but the model is plain18 \(given\)"),
        ({"stride_in": "2x2"}, "--stride_in=2x2 is not one of 1x1, 3x3"),
        ({"interpolation": "nearest"}, "--interpolation=nearest is not one of bilinear, bicubic"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean and --std belong together"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, r"--mean is 0\.5,0\.5, but it must be three numbers"),
        ({"mean": (0.5,), "std": (0.0,)}, r"--std is 0\.0, but .* above 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "--mean is nan"),
        ({"batch_norm_epsilon": 0.0}, r"--batch_norm_epsilon=0\.0 must be a number above 0"),
        ({"image_size": 0}, "--image_size=0 must be at least 1"),
        ({"resize": 200}, r"--resize=200 \(given\) is less than --image_size=224 \(assumed, as torchvision's\)"),
        ({"class_names": ("a", "b")}, r"3 classes, but class_names \(given\) has 2"),
    ],
)
def test_statements_that_cannot_be(stated, message, read, resnet18):
    refused(read, message, resnet18, **stated)


def test_a_plain_network_is_what_the_user_says(read):
    tensors = tensors_of("cifar_resnet8", 10, zero_channels="both")
    network, said = read(tensors, model="cifar_plain8")
    assert network.model.shortcut is None
    assert said[0] == "model=cifar_plain8 (given)"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet18", {"pool_alignment": "caffe", "epsilon": 1e-3}),
        ("resnet50", {"pool_alignment": "caffe"}),
        ("resnet18", {"pool_alignment": "caffe", "shortcut": "A"}),
        ("cifar_resnet8", {"zero_channels": "end"}),
        ("cifar_plain8", {}),
        ("plain18", {"pool_alignment": "torch"}),
    ],
)
def test_from_torch_refuses_networks_that_the_weights_are_not_of(name, fields):
    """Each field that tensors do not show, where it is not torchvision's or akamaster's."""
    model = models.create(name, num_classes=3, **fields)
    tensors = tensors_of(name, **fields)
    with pytest.raises(InputError, match=r"this one has .* and would compute something else"):
        torch_weights.from_torch(tensors, model)
    back = torch_weights.to_torch(torch_weights.from_torch(tensors, model, torch_weights.conventions(model)), model)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(back[key], tensor)


def test_layouts_by_name_and_unknown_ones(resnet18):
    model = models.create("resnet18", num_classes=3)
    torch_weights.from_torch(resnet18, model, "caffe")
    torch_weights.from_torch(resnet18, model, {"pool_alignment": "caffe"})
    with pytest.raises(InputError, match="unknown layout 'timm': it is one of torchvision, caffe, akamaster"):
        torch_weights.from_torch(resnet18, model, "timm")
    with pytest.raises(InputError, match="no field 'stride': its fields are residual"):
        torch_weights.from_torch(resnet18, model, {"stride": "1x1"})


def test_what_is_written_comes_back_as_it_was(tmp_path, resnet50):
    """A network that is nothing like torchvision's, with a mean image: to the bit, whatever the file is called."""
    path = tmp_path / "my_resnetv2.safetensors"
    model = models.create("resnet50", num_classes=3, stride_in="1x1", pool_alignment="caffe", epsilon=2e-5)
    variables = torch_weights.from_torch(resnet50, model, torch_weights.conventions(model))
    mean = np.random.default_rng(3).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    preprocessing = Preprocessing(jnp.asarray(mean), jnp.ones((1, 1, 3)), "bgr", 11, "bicubic")
    before = Classifier(model, variables, preprocessing, ("één", "two", "three"), (8, 8, 3))
    said = []
    save_torch(before, path, log=said.append)
    after = load_torch(path, log=said.append)
    assert jax.tree.structure(before) == jax.tree.structure(after)  # everything that is no array is in it
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert "--stride_in=1x1 --pool_alignment=caffe --batch_norm_epsilon=2e-05" in said[0]
    assert "stride_in=1x1 (the file's metadata)" in said
    # Others are told that the file is torch's.
    assert read_weights(path)[1]["format"] == "pt"


@pytest.mark.parametrize("damage", ["{", '{"version": 1}', '{"version": 1, "model": 3}', "[]"])
def test_metadata_that_are_damaged_or_newer(damage, read, resnet18):
    refused(read, "metadata of .* is damaged", resnet18, metadata={"resnet_jax": damage})
    refused(read, "has version 2, and this package reads 1", resnet18, metadata={"resnet_jax": '{"version": 2}'})


def test_grey_images(read):
    tensors = tensors_of("cifar_resnet8", 10, channels=1)
    refused(read, "images of one channel: state their --mean and --std", tensors)
    network, _ = read(tensors, mean=(0.3,), std=(0.5,))
    assert network.image_shape == (32, 32, 1)
    assert network.variables["params"]["conv1"]["kernel"].shape == (3, 3, 1, 16)
    refused(read, "--mean has 3 numbers, but the images have 1 channels", tensors, mean=(0.3,) * 3, std=(0.5,))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A workdir like that of a run on the digits: grey images, a mean of each pixel, nothing as akamaster's."""
    directory = tmp_path_factory.mktemp("grey") / "run"
    config = base.get_config()
    config.model.update(depth=8, zero_channels="end")
    config.dataset.name = "digits"
    model, rng = build.model(config, 10), np.random.default_rng(5)
    shape = (8, 8, 1)
    tensors = tensors_of("cifar_resnet8", 10, channels=1)
    variables = torch_weights.from_torch(tensors, model, torch_weights.conventions(model))
    opt_state = build.optimizer(config, train_images=1).init(variables["params"])
    state = TrainState(jnp.zeros((), jnp.int32), opt_state=opt_state, **variables)
    preprocessing = Preprocessing(jnp.asarray(rng.uniform(0, 16, shape), jnp.float32))
    state, preprocessing = jax.device_put((state, preprocessing), sharding.replicated(sharding.make_mesh()))
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, Card(tuple("0123456789"), shape, data_crc=7), step=7)
    return directory


def test_a_run_of_ours_comes_back_as_the_network_it_was(grey, tmp_path):
    said = []
    convert.to_torch(grey, tmp_path / "a.safetensors", said.append)
    (line,) = said
    assert "--zero_channels=end" in line
    assert "the mean is that of each pixel" in line
    convert.from_torch(tmp_path / "a.safetensors", tmp_path / "back", said.append)
    before, after = load(grey), load(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)  # everything that is no array is in it
    assert load_run(tmp_path / "back").config.dataset.name == "digits"


@pytest.mark.slow
def test_photographs_are_shown_as_the_weights_want_it(tmp_path):
    """By `predict` and in what `export` writes: against Pillow and NumPy."""
    tensors = tensors_of("cifar_resnet8", 10)
    # No logit so far from the others that its probability is 0.
    small = {name: 0.3 * (tensor - 0.5) for name, tensor in tensors.items() if tensor.ndim > 1}
    write_tensors(tmp_path / "a.safetensors", tensors | small)
    stated = {"image_size": 24, "resize": 40, "interpolation": "bilinear", "mean": (0.1, 0.2, 0.3), "std": (0.5,)}
    convert.from_torch(tmp_path / "a.safetensors", tmp_path / "run", lambda line: None, **stated)
    classifier = load(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    resized = Image.fromarray(pixels).resize((50, 40), Image.Resampling.BILINEAR).crop((13, 8, 37, 32))
    images = (np.asarray(resized, np.float32) / 255 - np.float32([0.1, 0.2, 0.3])) / np.float32(0.5)
    logits = np.asarray(classifier.model.apply(classifier.variables, images[None], train=False), np.float64)[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    (found,) = predict(classifier, [tmp_path / "photograph.png"], top=10)
    named = {each["name"]: each["probability"] for each in found["classes"]}
    # `predict` resizes the centre alone, which rounds pixels differently.
    np.testing.assert_allclose([named[name] for name in classifier.class_names], expected, rtol=0.02)
    assert expected.max() > 2 * expected.min()
    facts = describe(classifier)
    assert (facts["image_shape"], facts["shorter_side"], facts["interpolation"]) == ([24, 24, 3], 40, "bilinear")


@pytest.mark.slow
def test_images_of_another_size_are_not_scored(tmp_path):
    write_tensors(tmp_path / "a.safetensors", tensors_of("cifar_resnet8", 10, channels=1))
    stated = {"mean": (0.3,), "std": (0.5,), "class_names": tuple("0123456789")}
    convert.from_torch(tmp_path / "a.safetensors", tmp_path / "run", lambda line: None, **stated)
    with pytest.raises(
        InputError, match="the network is for images of 32 x 32 x 1, but those of the data are 8 x 8 x 1"
    ):
        evaluate_runs([tmp_path / "run"], dataset="digits")


def test_a_folder_of_weights_is_no_run(tmp_path, resnet20):
    """As the hub of timm's weights makes it, with a config.json that is no run's."""
    write_tensors(tmp_path / "model.safetensors", resnet20)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(InputError, match=r"is no run, and holds weights: give the file itself, .*model\.safetensors"):
        convert.to_torch(tmp_path, tmp_path / "out.safetensors")


def test_the_command_line_states_it(resnet20, tmp_path, capsys):
    write_tensors(tmp_path / "a.safetensors", resnet20)
    arguments = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "run")]
    flags = ["--mean=0.4914,0.4822,0.4465", "--std=0.2023,0.1994,0.201", "--zero_channels=end", "--resize=40"]
    assert cli.main([*arguments, *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "mean=0.4914,0.4822,0.4465 (given)" in said
    assert said[-1] == f"cifar_resnet8 in {tmp_path / 'run'}"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["zero_channels"] == "end"
    # Out again, and in again: nothing has to be stated twice.
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "b.safetensors")]) == 0
    assert "--zero_channels=end --mean=0.4914,0.4822,0.4465" in capsys.readouterr().err
    network = load_torch(tmp_path / "b.safetensors", log=lambda line: None)
    assert network.model.zero_channels == "end"
    assert network.preprocessing.shorter_side == 40
    assert list(statistics(network)) == [of_255((0.4914, 0.4822, 0.4465)), of_255((0.2023, 0.1994, 0.201))]

    for wrong, message in [
        ([*arguments[:2], str(tmp_path / "c"), "--mean=red"], "--mean=red is no list of numbers"),
        (["convert", str(tmp_path / "run"), str(tmp_path / "c.safetensors"), "--resize=3"], "--resize says what is in"),
        ([*arguments[:2], str(tmp_path / "c"), "--model=resnetblur18"], "--model=resnetblur18 names a network with"),
        ([*arguments[:2], str(tmp_path / "a.safetensors")], "is a file: give the name of a folder"),
    ]:
        assert cli.main(wrong) == 2
        assert message in capsys.readouterr().err
