"""What the README shows of Python, on small photographs: weights, data, a loop of one's own, evaluation, prediction."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pytest
from PIL import Image

import resnet_jax as rj

SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bright and dark photographs, a weights file of a network of three classes, and some new ones."""
    root, rng = tmp_path_factory.mktemp("ten_lines"), np.random.default_rng(0)

    def save(path, light):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(light, light + 56, (40, 48, 3), np.uint8)).save(path)

    for split, count in (("train", 12), ("val", 4)):
        for name, light in (("bright", 200), ("dark", 0)):
            for i in range(count):
                save(root / "photos" / split / name / f"{i}.png", light)
    save(root / "new_photos" / "1.png", 190)
    model = rj.create("resnet18", num_classes=3)
    pixels = rj.data.Preprocessing(np.full((1, 1, 3), 128.0, np.float32), np.full((1, 1, 3), 64.0, np.float32))
    variables = rj.models.init(model, (SIDE, SIDE, 3), seed=1)
    rj.save_torch(
        rj.Classifier(model, variables, pixels, ("a", "b", "c"), (SIDE, SIDE, 3)), root / "resnet18.safetensors"
    )
    return root


def test_the_ten_lines(folder, monkeypatch):
    monkeypatch.chdir(folder)
    classifier = rj.load_torch("resnet18.safetensors")
    photos = rj.data.image_folder("photos", image_size=SIDE)
    classifier = rj.transfer(classifier, class_names=photos.class_names)
    optimizer = rj.training.sgd(0.01, momentum=0.9, weight_decay=1e-4)
    state = rj.training.create_state(classifier, optimizer, seed=0)
    step = rj.training.make_train_step(classifier, optimizer)
    losses = []
    for batch in photos.train.batches(batch_size=8, steps=12):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    classifier = classifier.replace(variables=state.variables)
    found = rj.evaluate(classifier, photos.validation)
    (prediction,) = rj.predict(classifier, "new_photos/")
    assert losses[-1] < losses[0]
    assert photos.class_names == ("bright", "dark")
    assert found.summary()["images"] == 8
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_an_own_loss_and_optax_adamw(folder):
    """A loss that is no classification's, and an optimizer that is not ours."""
    photos = rj.data.image_folder(folder / "photos", image_size=SIDE)
    model = rj.create("cifar_resnet8", num_classes=1)

    def brightness(logits, batch):
        wanted = 1.0 - batch.labels  # bright is class 0
        return ((logits[:, 0] - wanted) ** 2).sum(), {}

    pixels = rj.data.Preprocessing(np.full((1, 1, 3), 128.0, np.float32), np.full((1, 1, 3), 64.0, np.float32))
    optimizer = optax.adamw(1e-2)
    state = rj.training.create_state(model, optimizer, seed=0, image_shape=(SIDE, SIDE, 3))
    step = rj.training.make_train_step(model, optimizer, loss=brightness, preprocessing=pixels)
    losses = []
    for batch in photos.train.batches(batch_size=8, steps=20):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


def test_what_the_package_offers():
    for name in rj.__all__:
        assert getattr(rj, name) is not None
    assert rj.__version__
    assert set(rj.__all__) <= set(dir(rj))
    with pytest.raises(AttributeError, match="no attribute 'resnet'"):
        _ = rj.resnet


def test_import_is_cheap():
    """Nothing is imported before it is asked for."""
    said = subprocess.run(
        [sys.executable, "-c", "import sys, resnet_jax; print('jax' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"


@pytest.mark.slow
def test_help():
    said = subprocess.run(
        [sys.executable, "-c", "import resnet_jax; help(resnet_jax)"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("load_torch", "evaluate", "predict", "transfer", "train"):
        assert name in said
    assert Path(rj.__file__).name in said
