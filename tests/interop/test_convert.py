"""resnet-jax convert, and what becomes of the converted networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import cli, models
from resnet_jax.errors import InputError
from resnet_jax.evaluation.predict import predict
from resnet_jax.evaluation.run_evaluate import evaluate_runs
from resnet_jax.evaluation.trained import load
from resnet_jax.interop import convert, torch_weights
from resnet_jax.interop.files import read_tensors, write_tensors

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
    assert cli.main(["convert", str(directory), str(tmp_path / f"back{suffix}")]) == 0
    before, after = read_tensors(weights), read_tensors(tmp_path / f"back{suffix}")
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
    assert found["classes"][0]["name"] == names[int(golden["logits"][0].argmax())]


@pytest.mark.torch
@pytest.mark.test_data
def test_a_folder_that_holds_something_is_left_alone(converted):
    weights, _, directory = converted
    before = sorted(directory.rglob("*"))
    with pytest.raises(InputError, match="is not empty"):
        convert.from_torch(weights, directory)
    assert sorted(directory.rglob("*")) == before


def test_arguments(tmp_path, capsys):
    assert cli.main(["convert", str(tmp_path)]) == 2
    assert "a source and a destination are wanted" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "no.safetensors"), str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err


def zeros(model):
    """A network's tensors in torch's layout."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return torch_weights.to_torch(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables), model)


# A ResNet-50, since strides are in bottlenecks only.
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=pytest.mark.torch)])
def test_what_weights_cannot_say_is_said_in_one_line(suffix, tmp_path):
    """Torchvision's own come back without a word; the paper's alignment and strides do not."""
    model = models.create("resnet50", num_classes=3, stride_in="3x3", pool_alignment="torch")
    write_tensors(tmp_path / "torch.safetensors", zeros(model))
    convert.from_torch(tmp_path / "torch.safetensors", tmp_path / "run")
    said = []
    convert.to_torch(tmp_path / "run", tmp_path / f"again{suffix}", said.append)
    assert said == []
    config = tmp_path / "run" / "config.json"
    fields = json.loads(config.read_text())
    fields["model"] |= {"stride_in": "1x1", "pool_alignment": "caffe"}
    del fields["checksum"]  # which keeps an edit
    config.write_text(json.dumps(fields))
    convert.to_torch(tmp_path / "run", tmp_path / f"again{suffix}", said.append)
    (line,) = said
    assert line.endswith("unlike torchvision's: --stride_in=1x1 --pool_alignment=caffe")
    assert ("cannot say" in line) == (suffix == ".pth")
    # From a .safetensors file they come back by themselves, and with what was said from the other.
    stated = {"stride_in": "1x1", "pool_alignment": "caffe"} if suffix == ".pth" else {}
    convert.from_torch(tmp_path / f"again{suffix}", tmp_path / "back", **stated)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model"] == fields["model"]


def test_weights_that_are_not_finite(tmp_path):
    tensors = zeros(models.create("cifar_resnet8"))
    tensors["fc.bias"] = np.array([np.nan, *range(9)], np.float32)
    write_tensors(tmp_path / "nan.safetensors", tensors)
    with pytest.raises(InputError, match=r"nan.safetensors holds numbers in fc.bias that are not finite"):
        convert.from_torch(tmp_path / "nan.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()
