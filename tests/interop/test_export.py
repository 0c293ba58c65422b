"""resnet-jax export: the file in a process that has nothing of this package, against `predict` in this one."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli.main import main
from resnet_jax.configs import base
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.prediction import predict
from resnet_jax.interop import exporting
from resnet_jax.models import ResNet
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import CheckpointMetadata, Checkpoints
from resnet_jax.runs.loading import load, load_run
from resnet_jax.training.state import TrainState

NAMES = ("null", "één", "two", "three", "four")

# What someone who was given the two files does. None in sys.modules makes an import fail, however it is installed.
STRANGER = """
import sys
sys.modules["resnet_jax"] = sys.modules["flax"] = None
try:
    import resnet_jax.models
except ImportError:
    pass
else:
    raise AssertionError("resnet_jax can be imported")
import json, pathlib
import jax, jax.export
import numpy as np
from PIL import Image

assert jax.device_count() == 1
name, inputs, outputs, *photographs = sys.argv[1:]
program = jax.export.deserialize(bytearray(pathlib.Path(name).read_bytes()))
results = {key: program.call(images) for key, images in np.load(inputs).items()}
assert all(result.dtype == np.float32 for result in results.values())

facts = json.loads(pathlib.Path(name + ".json").read_text(encoding="utf-8"))
height, width, channels = facts["image_shape"]
for path in photographs:
    image = Image.open(path).convert("RGB")
    side, shorter = facts["resize_size"], min(image.size)
    size = side * image.width // shorter, side * image.height // shorter
    image = image.resize(size, getattr(Image.Resampling, facts["interpolation"].upper()))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height)).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(1, height, width, channels)
    row = np.asarray(program.call(pixels))[0]
    print(json.dumps({facts["class_names"][i]: float(row[i]) for i in np.argsort(-row)}))
np.savez(outputs, **results)
"""


def drawn(model, preprocessing, image_shape):
    """Variables like those of a trained network: no two channels alike, and logits that tell images apart."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1][-3:]) if name == "kernel" else 25.0
        return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)

    init = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))
    variables = jax.tree_util.tree_map_with_path(draw, dict(init))
    fc = variables["params"]["fc"]
    logits = np.asarray(
        jax.jit(model.apply, static_argnames="train")(variables, preprocessing(images(32, image_shape)), train=False)
    )
    # Over images each logit has mean 0 and standard deviation 1/3: no probability is near 0, where 1e-5 of it is less
    # than rounding.
    fc["kernel"] /= 3 * logits.std(0)
    fc["bias"] = (fc["bias"] - logits.mean(0)) / (3 * logits.std(0))
    return variables


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A workdir: grey images, a mean for each pixel, two stacked blocks in each stage."""
    directory = tmp_path_factory.mktemp("grey") / "run"
    config = base.get_config()
    config.model.depth = 20
    model, shape = build.model(config, len(NAMES)), (8, 8, 1)
    preprocessing = Preprocessing(jax.random.uniform(jax.random.key(0), shape, maxval=255), jnp.full((1, 1, 1), 64.0))
    variables = drawn(model, preprocessing, shape)
    opt_state = build.optimizer(config, train_images=1).init(variables["params"])
    state = TrainState(jnp.asarray(7, jnp.int32), opt_state=opt_state, **variables)
    state, preprocessing = jax.device_put((state, preprocessing), replicated(make_mesh()))
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, CheckpointMetadata(NAMES, shape, data_crc=0), step=7)
    return directory


@pytest.fixture(scope="module")
def bottleneck():
    """A small network of the ImageNet form, on every device: colour, bottlenecks, pooling, projections, scans."""
    shape = (64, 64, 3)
    model = ResNet((2, 3), (8, 16), True, "imagenet", len(NAMES), "B")
    mean, std = jnp.array([[[120.0, 110.0, 90.0]]]), jnp.array([[[60.0, 64.0, 70.0]]])
    preprocessing = Preprocessing(mean, std, resize_size=73, interpolation="bilinear")
    variables = drawn(model, preprocessing, shape)
    classifier = Classifier(model, variables, preprocessing, NAMES, shape)
    return jax.device_put(classifier, replicated(make_mesh()))


@pytest.fixture
def stranger(tmp_path):
    """Runs STRANGER on a file; returns the probabilities of each array and what it says of each photograph."""

    def run(file, arrays, photographs=()):
        inputs, outputs = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
        np.savez(inputs, **arrays)
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, *map(str, (file, inputs, outputs, *photographs))],
            cwd=tmp_path,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(np.load(outputs)), [json.loads(line) for line in done.stdout.splitlines()]

    return run


def images(count, shape, seed=2):
    """8 x 8 coloured squares, each image of another brightness."""
    rng = np.random.default_rng(seed)
    squares = rng.uniform(0.2, 1, (count, 1, 1, 1)) * rng.integers(0, 256, (count, 8, 8, shape[2]))
    return squares.astype(np.uint8).repeat(shape[0] // 8, 1).repeat(shape[1] // 8, 2)


def probabilities(classifier, array):
    return jax.nn.softmax(classifier(array))


def check_photographs(classifier, paths, named):
    for ours, theirs in zip(predict(classifier, paths), named, strict=True):
        expected = ours.probabilities
        # `predict` resizes the centre alone, which rounds pixels differently.
        assert theirs == pytest.approx(expected, rel=0.01)
        assert max(expected.values()) > 1.1 * min(expected.values())


def write(directory, file):
    run = load_run(directory)
    return exporting.export(run.classifier, file, run.step)


def custom_calls(exported):
    return set(re.findall(r"stablehlo\.custom_call @(\w+)", exported.mlir_module()))


@pytest.mark.slow
def test_a_workdirs_file_gives_predicts_probabilities_elsewhere(grey, stranger, tmp_path):
    file = tmp_path / "digits.program"
    assert write(grey, file) == tmp_path / "digits.program.json"
    classifier = load(grey)
    assert classifier.variables["params"]["fc"]["bias"].sharding.num_devices == jax.device_count() == 8
    arrays = {f"n{count}": images(count, (8, 8, 1), count) for count in (1, 5)}
    photographs = []
    for i, size in enumerate([(40, 24), (9, 30)]):
        photographs.append(tmp_path / f"photograph{i}.png")
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)).save(photographs[-1])

    found, named = stranger(file, arrays, photographs)
    for key, array in arrays.items():
        np.testing.assert_allclose(found[key], probabilities(classifier, array), rtol=1e-5)
    # The images are told apart, so the comparison is one.
    assert np.ptp(found["n5"], axis=0).max() > 0.02

    check_photographs(classifier, photographs, named)


@pytest.mark.slow
def test_bottlenecks_and_pooling_in_colour(bottleneck, stranger, tmp_path):
    file = tmp_path / "program"
    file.write_bytes(exporting.exported_program(bottleneck).serialize())
    (tmp_path / "program.json").write_text(json.dumps(exporting.describe(bottleneck)), encoding="utf-8")
    arrays = {f"n{count}": images(count, (64, 64, 3), count) for count in (2, 3)}
    Image.fromarray(images(1, (160, 96, 3))[0]).save(tmp_path / "photograph.png")
    found, named = stranger(file, arrays, [tmp_path / "photograph.png"])
    for key, array in arrays.items():
        np.testing.assert_allclose(found[key], probabilities(bottleneck, array), rtol=1e-5)
    assert np.ptp(found["n3"], axis=0).max() > 0.02
    check_photographs(bottleneck, [tmp_path / "photograph.png"], named)


@pytest.mark.parametrize("alignment", ["caffe", "torch"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_each_choice_that_touches_the_input(bottleneck, alignment, order):
    model = bottleneck.model.clone(stem_pool_padding=alignment)
    preprocessing = bottleneck.preprocessing.replace(channel_order=order)
    classifier = bottleneck.replace(model=model, preprocessing=preprocessing)
    array = images(2, (64, 64, 3))
    found = np.asarray(exporting.exported_program(classifier).call(array))
    np.testing.assert_allclose(found, probabilities(classifier, array), rtol=1e-5)


def test_one_program_for_every_platform_and_one_device(bottleneck):
    exported = exporting.exported_program(bottleneck)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.nr_devices == 1
    assert [str(side) for side in exported.in_avals[0].shape] == ["batch", "64", "64", "3"]
    assert [str(side) for side in exported.out_avals[0].shape] == ["batch", "5"]
    assert (exported.in_avals[0].dtype, exported.out_avals[0].dtype) == (np.uint8, np.float32)
    # The check of the batch, which JAX resolves on loading; nothing that one platform's runtime would have to have.
    assert custom_calls(exported) == {"shape_assertion"}


def test_custom_calls_would_be_seen():
    image = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert any("lapack" in name for name in custom_calls(jax.export.export(jax.jit(jnp.linalg.qr))(image)))


@pytest.mark.slow
def test_the_file_holds_the_parameters_once(grey, tmp_path):
    write(grey, tmp_path / "program")
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(load(grey).variables))
    assert parameters > 1_000_000
    assert parameters < (tmp_path / "program").stat().st_size < 1.05 * parameters


def test_the_file_depends_on_the_checkpoint_only(grey, tmp_path):
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    for name in ("once", "again"):
        write(grey, tmp_path / name)
    assert getattr(jax.config, option) == before != 0
    data = (tmp_path / "once").read_bytes()
    assert data == (tmp_path / "again").read_bytes()
    assert b".py" not in data
    assert str(grey).encode() not in data


def test_the_description(grey, bottleneck, tmp_path):
    write(grey, tmp_path / "program")
    facts = json.loads((tmp_path / "program.json").read_text(encoding="utf-8"))
    expected = {
        "network": "cifar_resnet20",
        "iteration": 7,
        "image_shape": [8, 8, 1],
        "resize_size": 8,
        "interpolation": "bicubic",
        "class_names": list(NAMES),
        "jax_version": jax.__version__,
        "platforms": ["cpu", "cuda", "tpu"],
    }
    assert {field: facts[field] for field in expected} == expected
    for words in ("uint8 (batch, 8, 8, 1)", "to 8 (bicubic", "8 x 8 cut out, made grey"):
        assert words in facts["images"]
    # What it says of loading is a program.
    names = {"jax": jax, "pathlib": pathlib, "FILE": tmp_path / "program", "images": images(2, (8, 8, 1))}
    assert eval(facts["load"], names).shape == (2, len(NAMES))

    facts = exporting.describe(bottleneck)
    assert (facts["resize_size"], facts["interpolation"]) == (73, "bilinear")
    assert "to 73 (bilinear" in facts["images"]
    assert "grey" not in facts["images"]


def test_an_old_file_is_replaced_and_nothing_else_is_left(grey, tmp_path):
    (tmp_path / "program").write_bytes(b"old")
    write(grey, tmp_path / "program")
    assert jax.export.deserialize(bytearray((tmp_path / "program").read_bytes())).nr_devices == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program", "program.json"]


def test_a_full_disk_leaves_the_old_file(grey, tmp_path, monkeypatch):
    (tmp_path / "program").write_bytes(b"old")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        write(grey, tmp_path / "program")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"program": b"old"}


def test_destinations_that_cannot_be(grey, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in grey.rglob("*")}
    (tmp_path / "file").touch()
    for destination, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "program", "absent is no folder"),
        (tmp_path / "file" / "program", "file is no folder"),
        (grey / "config", "is a file of the run"),
        (grey / ".." / "run" / "config.json", "is a file of the run"),
    ]:
        assert main(["export", f"--workdir={grey}", f"--output={destination}"]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in grey.rglob("*")} == before


def test_no_run_and_no_checkpoint(tmp_path, capsys):
    arguments = ["export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'program'}"]
    assert main(arguments) == 2
    assert "is not the workdir of a run" in capsys.readouterr().err
    workdir.claim(tmp_path / "run", base.get_config())
    assert main(arguments) == 2
    assert "holds no checkpoint yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
