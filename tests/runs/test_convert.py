"""resnet-jax convert, and what becomes of the converted networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli.main import main
from resnet_jax.configs import base
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.errors import InputError
from resnet_jax.evaluation.prediction import predict
from resnet_jax.interop import torch_weights
from resnet_jax.interop.classifiers import load_torch
from resnet_jax.interop.exporting import describe
from resnet_jax.interop.files import read_weights, write_tensors
from resnet_jax.runs import build, convert, workdir
from resnet_jax.runs.checkpoints import CheckpointMetadata, Checkpoints
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.runs.loading import load, load_run
from resnet_jax.training.state import TrainState
from torch_networks import tensors_of_ours

pytestmark = pytest.mark.optimized

WEIGHTS = ("resnet20-12fca82f", "resnet44-014dd654")


@pytest.fixture(scope="module", params=WEIGHTS)
def converted(request, test_data, tmp_path_factory):
    """The weights, PyTorch's own results with them, and the workdir that they were converted to."""
    weights = test_data / "weights" / f"{request.param}.th"
    directory = tmp_path_factory.mktemp("converted") / request.param
    convert.from_torch(weights, directory)
    return weights, np.load(test_data / "weights" / f"{request.param}_golden.npz"), directory


@pytest.mark.torch
@pytest.mark.test_data
def test_probabilities_are_pytorchs(converted):
    _, golden, directory = converted
    logits = golden["logits"].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(load(directory)(golden["image"])), expected, atol=1e-4)


# The other one's logits are compared above, and to score 10,000 images takes it half a minute.
@pytest.mark.torch
@pytest.mark.test_data
@pytest.mark.parametrize("converted", WEIGHTS[:1], indirect=True)
def test_the_error_on_all_test_images_is_pytorchs(converted, test_data):
    _, golden, directory = converted
    score = evaluate_runs([directory], data_dir=str(test_data / "tfds"))
    assert score["images"] == 10_000
    assert 100 * score["error"] == pytest.approx(float(golden["test_error_percent"]), abs=0.03)


@pytest.mark.torch
@pytest.mark.test_data
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_there_and_back_is_the_same_to_the_bit(converted, tmp_path, suffix):
    weights, _, directory = converted
    assert main(["convert", str(directory), str(tmp_path / f"back{suffix}")]) == 0
    before, after = read_weights(weights)[0], read_weights(tmp_path / f"back{suffix}")[0]
    for name, tensor in before.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensor, after[name])


@pytest.mark.torch
@pytest.mark.test_data
def test_predictions_of_files(converted, tmp_path):
    _, golden, directory = converted
    Image.fromarray(golden["image"][0]).save(tmp_path / "image.png")
    (found,) = predict(load(directory), [tmp_path / "image.png"])
    names = load(directory).class_names
    assert found.classes[0][0] == names[int(golden["logits"][0].argmax())]


@pytest.mark.torch
@pytest.mark.test_data
def test_a_folder_that_holds_something_is_left_alone(converted):
    weights, _, directory = converted
    before = sorted(directory.rglob("*"))
    with pytest.raises(InputError, match="is not empty"):
        convert.from_torch(weights, directory)
    assert sorted(directory.rglob("*")) == before


def test_arguments(tmp_path, capsys):
    assert main(["convert", str(tmp_path)]) == 2
    assert "a source and a destination are wanted" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "no.safetensors"), str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err


# A ResNet-50, since strides are in bottlenecks only.
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=pytest.mark.torch)])
def test_what_weights_cannot_say_is_said_in_one_line(suffix, tmp_path):
    """Torchvision's own come back without a word; the paper's alignment and strides do not."""
    write_tensors(tmp_path / "torch.safetensors", tensors_of_ours("resnet50"))
    convert.from_torch(tmp_path / "torch.safetensors", tmp_path / "run")
    said = []
    convert.to_torch(tmp_path / "run", tmp_path / f"again{suffix}", said.append)
    assert said == []
    config = tmp_path / "run" / "config.json"
    fields = json.loads(config.read_text())
    fields["model"] |= {"bottleneck_stride": "1x1", "stem_pool_padding": "caffe"}
    del fields["checksum"]  # which keeps an edit
    config.write_text(json.dumps(fields))
    convert.to_torch(tmp_path / "run", tmp_path / f"again{suffix}", said.append)
    (line,) = said
    assert line.endswith("unlike torchvision's: --bottleneck_stride=1x1 --stem_pool_padding=caffe")
    assert ("cannot say" in line) == (suffix == ".pth")
    # From a .safetensors file they come back by themselves, and with what was said from the other.
    stated = {"bottleneck_stride": "1x1", "stem_pool_padding": "caffe"} if suffix == ".pth" else {}
    convert.from_torch(tmp_path / f"again{suffix}", tmp_path / "back", **stated)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model"] == fields["model"]


def test_weights_that_are_not_finite(tmp_path):
    tensors = tensors_of_ours("cifar_resnet8", 10)
    tensors["fc.bias"] = np.array([np.nan, *range(9)], np.float32)
    write_tensors(tmp_path / "nan.safetensors", tensors)
    with pytest.raises(InputError, match=r"nan.safetensors: .* numbers in fc.bias that are not finite"):
        convert.from_torch(tmp_path / "nan.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A workdir like that of a run on the digits: grey images, a mean of each pixel, nothing as akamaster's."""
    directory = tmp_path_factory.mktemp("grey") / "run"
    config = base.get_config()
    config.model.update(depth=8, shortcut_padding="end")
    config.dataset.name = "digits"
    model, rng = build.model(config, 10), np.random.default_rng(5)
    shape = (8, 8, 1)
    tensors = tensors_of_ours("cifar_resnet8", 10, channels=1)
    variables = torch_weights.from_torch(tensors, model, "own")
    opt_state = build.optimizer(config, train_images=1).init(variables["params"])
    state = TrainState(jnp.zeros((), jnp.int32), opt_state=opt_state, **variables)
    preprocessing = Preprocessing(jnp.asarray(rng.uniform(0, 16, shape), jnp.float32))
    state, preprocessing = jax.device_put((state, preprocessing), replicated(make_mesh()))
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, CheckpointMetadata(tuple("0123456789"), shape, data_crc=7), step=7)
    return directory


def test_a_run_of_ours_comes_back_as_the_network_it_was(grey, tmp_path):
    said = []
    convert.to_torch(grey, tmp_path / "a.safetensors", said.append)
    (line,) = said
    assert "--shortcut_padding=end" in line
    assert "the mean is that of each pixel" in line
    convert.from_torch(tmp_path / "a.safetensors", tmp_path / "back", said.append)
    before, after = load(grey), load(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)  # everything that is no array is in it
    assert load_run(tmp_path / "back").config.dataset.name == "digits"


@pytest.mark.slow
def test_photographs_are_shown_as_the_weights_want_it(tmp_path):
    """By `predict` and in what `export` writes: against Pillow and NumPy."""
    tensors = tensors_of_ours("cifar_resnet8", 10)
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
    # `predict` resizes the centre alone, which rounds pixels differently.
    np.testing.assert_allclose([found.probabilities[name] for name in classifier.class_names], expected, rtol=0.02)
    assert expected.max() > 2 * expected.min()
    facts = describe(classifier)
    assert (facts["image_shape"], facts["resize_size"], facts["interpolation"]) == ([24, 24, 3], 40, "bilinear")


@pytest.mark.slow
def test_images_of_another_size_are_not_scored(tmp_path):
    write_tensors(tmp_path / "a.safetensors", tensors_of_ours("cifar_resnet8", 10, channels=1))
    stated = {"mean": (0.3,), "std": (0.5,), "class_names": tuple("0123456789")}
    convert.from_torch(tmp_path / "a.safetensors", tmp_path / "run", lambda line: None, **stated)
    with pytest.raises(
        InputError, match="the network is for images of 32 x 32 x 1, but those of the data are 8 x 8 x 1"
    ):
        evaluate_runs([tmp_path / "run"], dataset="digits")


def test_a_folder_of_weights_is_no_run(tmp_path):
    """As the hub of timm's weights makes it, with a config.json that is no run's."""
    write_tensors(tmp_path / "model.safetensors", tensors_of_ours("cifar_resnet8", 10))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 10}))
    with pytest.raises(InputError, match=r"is no run, and holds weights: give the file itself, .*model\.safetensors"):
        convert.to_torch(tmp_path, tmp_path / "out.safetensors")


def test_the_command_line_states_it(tmp_path, capsys):
    write_tensors(tmp_path / "a.safetensors", tensors_of_ours("cifar_resnet8", 10))
    arguments = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "run")]
    flags = ["--mean=0.4914,0.4822,0.4465", "--std=0.2023,0.1994,0.201", "--shortcut_padding=end", "--resize=40"]
    assert main([*arguments, *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "mean=0.4914,0.4822,0.4465 (given)" in said
    assert said[-1] == f"cifar_resnet8 in {tmp_path / 'run'}"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["shortcut_padding"] == "end"
    # Out again, and in again: nothing has to be stated twice.
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "b.safetensors")]) == 0
    assert "--shortcut_padding=end --mean=0.4914,0.4822,0.4465" in capsys.readouterr().err
    network = load_torch(tmp_path / "b.safetensors", log=lambda line: None)
    assert network.model.shortcut_padding == "end"
    assert network.preprocessing.resize_size == 40
    for name, values in (("mean", (0.4914, 0.4822, 0.4465)), ("std", (0.2023, 0.1994, 0.201))):
        assert np.array_equal(getattr(network.preprocessing, name).ravel(), 255 * np.array(values, np.float32))

    for wrong, message in [
        ([*arguments[:2], str(tmp_path / "c"), "--mean=red"], "--mean=red is wrong: it must be a number"),
        (["convert", str(tmp_path / "run"), str(tmp_path / "c.safetensors"), "--resize=3"], "--resize says what is in"),
        (
            [*arguments[:2], str(tmp_path / "c"), "--model=resnetblur18"],
            "error: model=resnetblur18 names a network with",
        ),
        ([*arguments[:2], str(tmp_path / "a.safetensors")], "is a file: give the name of a folder"),
    ]:
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
