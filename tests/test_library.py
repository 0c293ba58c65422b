"""A loop of one's own around a network that is none of ours, and what a person is told who gives something wrong."""

import dataclasses
import functools
import inspect
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import resnet_jax as rj

SHAPE = (16, 16, 3)


class Colors(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(nn.relu(nn.Conv(8, (3, 3), strides=2)(images)).mean((1, 2)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (20, 30, 3), np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def classifier_of(model, class_names):
    variables = rj.models.init(model, SHAPE, jax.random.key(0))
    return rj.Classifier(model, variables, rj.data.Preprocessing.of_channels(), class_names, SHAPE)


def test_a_network_that_is_none_of_ours(photos):
    data = rj.data.image_folder(photos, image_size=16)
    classifier, optimizer = classifier_of(Colors(), data.class_names), optax.adam(1e-2)
    state = rj.training.create_state(classifier, optimizer)
    step = rj.training.make_train_step(classifier, optimizer)
    for batch in data.train.batches(batch_size=24, steps=30):
        state, _ = step(state, batch)
    classifier = classifier.replace(variables=state.variables)
    for protocol in ("center", "ten_crop"):
        assert rj.evaluate(classifier, data.validation, protocol).error == 0
    for images in (str(photos / "val" / "*" / "0.png"), [photos / "val" / name / "0.png" for name in data.class_names]):
        predicted = rj.predict(classifier, images, top=1)
        assert [each.classes[0][0] for each in predicted] == [Path(each.file).parent.name for each in predicted]
    # What only networks of ours can do says so.
    for function, arguments in (
        (rj.evaluate, (data.validation, "dense")),
        (rj.transfer, (["cat", "dog"],)),
        (rj.evaluation.recalibrate, ([batch.images],)),
        (rj.save_torch, (photos / "colors.safetensors",)),
    ):
        with pytest.raises(rj.errors.InputError, match=r"a Colors .*ResNets"):
            function(classifier, *arguments)


def test_wrong_inputs_are_named(photos):
    data = rj.data.image_folder(str(photos), image_size=16)
    classifier = classifier_of(rj.create("cifar_resnet8", num_classes=3), data.class_names)
    five, weights = classifier.replace(model=rj.create("cifar_resnet8", num_classes=5)), classifier.variables
    more = classifier.replace(variables={**weights, "params": {**weights["params"], "gate": np.zeros(2)}})
    batch = next(data.train.batches(batch_size=8))
    floats = batch.images.astype(np.float32) / 255
    for call, message in (
        (lambda: rj.evaluate(classifier, data), r"ImageFolder is no split .*data\.image_folder"),
        (lambda: rj.evaluate(classifier, str(photos)), "^str is no split"),
        (lambda: rj.evaluate(classifier, photos), "Path is no split"),
        (lambda: rj.evaluate(classifier, batch), "^Batch is no split"),
        (lambda: rj.evaluate(classifier, []), "^list is no split"),
        (lambda: rj.evaluate(data.validation, classifier), "^ImageSplit is no classifier"),
        (lambda: five(batch.images), r"fc/bias is \(3,\), but this ResNet has \(5,\): replace model and variables tog"),
        (
            lambda: rj.evaluate(five, data.validation, "ten_crop"),
            r"^the weights are not of the classifier's model: par",
        ),
        (lambda: rj.evaluate(more, data.validation), r"params/gate is \(2,\), but this ResNet has none"),
        (lambda: rj.analysis.class_activation_maps(five, batch.images), "the weights are not of"),
        (lambda: classifier(batch.images[0]), r"^images are \(16, 16, 3\), but they must be \(count"),
        (lambda: classifier(np.zeros((1, 16, 16, 4), np.uint8)), r"with the network's 3 channels"),
        (lambda: rj.evaluate("runs/mine", data.validation), "^str is no classifier: give what load"),
        (lambda: rj.evaluate(classifier, rj.data.Split(floats, batch.labels)), "are float32, but they must be uint8"),
        (lambda: rj.predict(classifier, [batch.images[0]]), "neither paths nor one array"),
        (lambda: rj.predict(classifier, Image.fromarray(batch.images[0])), "neither paths nor one array"),
        (lambda: rj.predict(classifier, floats), "are float32"),
        (lambda: rj.predict(classifier, batch.images, top=0), "top is 0"),
        (lambda: next(rj.data.load("digits").train.batches(0)), "batch_size is 0"),
        (lambda: data.train.batches(0), "batch_size is 0"),
        (lambda: rj.transfer(classifier, "cat"), "class_names is 'cat'"),
        (lambda: rj.transfer(classifier, []), "class_names is"),
        (lambda: rj.train("digits", photos / "run"), r"config is digits, .*configs\.load"),
        (lambda: rj.train({"a": list(range(1000))}, photos / "run"), r"^config is .{,80}, but it must be a config"),
        (lambda: rj.transfer(classifier, 10), "class_names is 10"),
        (
            lambda: rj.transfer(classifier.model, ["a"]),
            "^ResNet is no classifier: .* and then the names of its classes",
        ),
        (lambda: rj.save_torch(photos / "a.pth", classifier), "Path is no classifier: .* then a file"),
        (lambda: rj.save_torch(classifier.variables, photos / "a.pth"), "^dict is no classifier"),
        (lambda: rj.load({}), "^the workdir is of type dict, but it must be text or a Path"),
        (lambda: rj.load_torch(None), "is of type NoneType"),
        (lambda: rj.configs.load(3), "^the config is of type int, but it must be a name"),
        (lambda: rj.analysis.plot_curves([{"step": 1}]), "no lines of metrics by name"),
        (
            lambda: rj.data.image_folder(photos / "absent", image_size=16),
            "^the folder data_dir=.*absent does not exist",
        ),
    ):
        with pytest.raises(rj.errors.InputError, match=message):
            call()


def test_arguments_in_another_order_or_of_another_kind():
    # Without the checks of types that tests put around functions.
    create_state, make_train_step = map(inspect.unwrap, (rj.training.create_state, rj.training.make_train_step))
    model, optimizer = rj.create("cifar_resnet8", num_classes=3), optax.sgd(0.1)
    for call, message in (
        (lambda: create_state(optimizer, model), "is no network: give create_state a classifier or a module, and then"),
        (
            lambda: create_state(model, 0.1),
            "^float is no optimizer: give create_state one of Optax, such as training.sgd",
        ),
        (lambda: make_train_step(optimizer, model), "is no network: give make_train_step"),
        (lambda: make_train_step(model, 0.1), "^float is no optimizer: give make_train_step"),
        (
            lambda: make_train_step(model, optimizer, loss="cross_entropy"),
            "^loss is 'cross_entropy', but it must be a f",
        ),
    ):
        with pytest.raises(rj.errors.InputError, match=message):
            call()


@pytest.mark.parametrize("number", ["10", 10.0, 0, -1])
def test_numbers_of_classes_that_no_network_has(number):
    with pytest.raises(ValueError, match=f"^num_classes is {number!r}, but it must be a whole number, at least 1$"):
        inspect.unwrap(rj.create)("resnet18", num_classes=number)


def test_recalibration_pre_processes_as_the_steps_do():
    classifier = classifier_of(rj.create("cifar_resnet8", num_classes=3), ("a", "b", "c"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), np.uint8)
    given = [pixels], [np.asarray(classifier.preprocessing(jnp.asarray(pixels)))]
    one, other = (rj.evaluation.recalibrate(classifier, batches).variables["batch_stats"] for batches in given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_groups_that_a_microbatch_cannot_hold_are_refused():
    model, optimizer = rj.create("cifar_resnet8", num_classes=3, bn_group_size=64), optax.sgd(0.1)
    state = rj.training.create_state(model, optimizer, 0, SHAPE)
    step = rj.training.make_train_step(model, optimizer, grad_accum_steps=2)
    batch = rj.data.Batch(np.zeros((128, *SHAPE), np.float32), np.zeros(128, np.int32))
    with pytest.raises(ValueError, match="bn_group_size=64 does not fit 8 images"):
        step(state, batch)


@pytest.mark.slow
def test_a_run_of_a_loss_without_errors_on_arrays_with_a_list_of_names(tmp_path, capsys):
    """Its loss is what it is reported with, and it goes on and is complete as any run."""
    config = rj.configs.load("digits", {"model.depth": 8, "train.iterations": 2, "train.log_every": 1, "mesh.data": 1})

    def squared(logits, batch):
        return ((logits - jax.nn.one_hot(batch.labels, logits.shape[-1])) ** 2).sum(), {}

    def regression(config, metadata, train_images, mesh):
        model = rj.create("cifar_resnet8", num_classes=len(metadata.class_names))
        return rj.runs.make_task(config, model, train_images, mesh, squared)

    def arrays(config, mesh, log, preprocessing):
        digits = dataclasses.replace(rj.data.load("digits"), class_names=list("abcdefghij"))
        return rj.runs.ResidentInput(digits, config, mesh, preprocessing)

    train = functools.partial(rj.train, make_task=regression, open_input=arrays)
    first = train(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run").result["test_loss"] == first.result["test_loss"] > 0
    said = capsys.readouterr().out
    assert f"test loss {first.result['test_loss']:.4f} on 360 images after 2 iterations" in said
    assert "going on from the checkpoint of iteration 2" in said
    train(config, tmp_path / "run")
    assert "is complete" in capsys.readouterr().out
