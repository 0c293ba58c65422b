from dataclasses import replace

import jax
import numpy as np
import pytest
from networks import random_preprocessing, random_variables

from compilations import compilations
from resnet_jax import models
from resnet_jax.data.encoded import EncodedImage
from resnet_jax.data.small import Split
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.errors import InputError
from resnet_jax.evaluation import protocols, scoring
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.outcomes import evaluate


def network(seed=0, resize_size=None):
    """For 32 x 32 windows and 10 classes."""
    model = models.create("cifar_resnet8")
    preprocessing = random_preprocessing(32, resize_size=resize_size)
    return Classifier(model, random_variables(model, 32, seed), preprocessing, tuple("abcdefghij"), (32, 32, 3))


def score_images(classifiers, images, protocol, batch_size, devices=None):
    return scoring.score_images(classifiers, images, protocol, batch_size, make_mesh(devices))


@pytest.fixture(scope="module")
def images():
    """Images of several sizes that differ much, and two that are damaged."""
    random = np.random.default_rng(3)
    made = []
    for index in range(53):
        height, width = ((32, 32), (40, 64), (70, 33), (32, 100))[index % 4]
        coarse = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        pixels = np.kron(coarse, np.ones((-(-height // 3), -(-width // 3), 1), np.uint8))[:height, :width]
        made.append(EncodedImage(pixels, index % 10, f"image {index}"))
    made[11] = EncodedImage(b"", 1, "nothing")
    made[40] = EncodedImage(b"these are notes", 1, "notes")
    return made


@pytest.fixture(scope="module")
def alone(images):
    """The log-probabilities of each image when there is no other one."""
    trained = network()

    def score(image, protocol):
        (found,) = score_images([trained], [image], protocol, 1, devices=1)
        return found.scores

    protocols_ = {name: protocols.choose(name, (32,) if name == "dense" else None) for name in protocols.NAMES}
    return {name: [score(image, protocol) for image in images] for name, protocol in protocols_.items()}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("name", "batch_size"), [("center", 1), ("center", 7), ("center", 64), ("dense", 7)])
def test_each_image_exactly_once(images, alone, name, batch_size, devices):
    protocol = protocols.choose(name, (32,) if name == "dense" else None)
    found = list(score_images([network()], images, protocol, batch_size, devices))
    assert sorted(each.index for each in found) == list(range(53))
    for each in found:
        assert (each.name, each.label) == (images[each.index].name, images[each.index].label)
        if each.index in (11, 40):
            assert each.scores is None
            assert each.damage
        else:
            np.testing.assert_allclose(each.scores, alone[name][each.index], rtol=0, atol=2e-5)
    # They differ, so that another image's scores would be noticed.
    whole = np.array([scores for scores in alone[name] if scores is not None])
    distances = np.abs(whole[:, np.newaxis] - whole[np.newaxis]).max(axis=-1)
    assert distances[~np.eye(51, dtype=bool)].min() > 1e-3


def test_too_many_waiting_images_go_on_in_parts(images, alone, monkeypatch):
    monkeypatch.setattr(scoring, "_MOST_WAITING_BYTES", 5 * 32 * 64 * 3)
    sizes = []
    scores = protocols.scores

    def watched(protocol, trained, views):
        sizes.append(len(views))
        return scores(protocol, trained, views)

    monkeypatch.setattr(protocols, "scores", watched)
    protocol = protocols.choose("dense", (32,))
    found = list(score_images([network()], images, protocol, 1000, devices=1))
    assert sorted(each.index for each in found) == list(range(53))
    # Never a whole batch, and none that is filled up much.
    assert len(sizes) > 8
    assert max(sizes) <= 8
    for each in found:
        if each.scores is not None:
            np.testing.assert_allclose(each.scores, alone["dense"][each.index], rtol=0, atol=2e-5)


def test_large_views_make_small_batches(monkeypatch):
    sizes = {}
    scores = protocols.scores

    def watched(protocol, trained, views):
        sizes.setdefault(views.shape[1:], set()).add(len(views))
        return scores(protocol, trained, views)

    monkeypatch.setattr(protocols, "scores", watched)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    images = [EncodedImage(pixels, 0, "") for _ in range(40)]
    trained = network()
    list(score_images([trained], images, protocols.choose("center"), 16, devices=2))
    list(score_images([trained], images, protocols.choose("ten_crop"), 16, devices=2))
    list(score_images([trained], images, protocols.choose("dense", (32, 64)), 16, devices=2))
    # 16 windows; ten of them in one view, on two devices; an image and its mirror image; four times as many pixels.
    assert sizes == {(32, 32, 3): {16, 8}, (5, 32, 32, 3): {2}, (64, 64, 3): {2}}


def test_few_numbers_of_images_are_programs_of_their_own(images):
    whole = [image for image in images if len(image.data) and not isinstance(image.data, bytes)]
    trained, original = network(), protocols.choose("center")
    sizes = [scoring._few(rows) for rows in range(1, 65)]
    assert len(set(sizes)) == 11
    assert all(rows <= size <= rows + 7 for rows, size in enumerate(sizes, 1))
    with compilations() as names:
        found = {
            count: {each.index: each.scores for each in score_images([trained], whole[:count], original, 64, devices=1)}
            for count in (5, 6, 7, 8)
        }
    assert names.count("jit(scores)") == 1
    for count, scored in found.items():
        assert list(scored) == list(range(count))
        for index, scores in scored.items():
            np.testing.assert_allclose(scores, found[8][index], rtol=1e-6)


def test_an_ensemble_is_the_mean_of_its_members(images):
    members = [network(seed=0), network(seed=1), network(seed=2, resize_size=40)]
    for name, scales in (("center", None), ("ten_crop", None), ("dense", (32,))):
        protocol = protocols.choose(name, scales)

        def probabilities(members, protocol=protocol):
            found = sorted(score_images(members, images[:10], protocol, 16), key=lambda each: each.index)
            return np.exp(np.array([each.scores for each in found], np.float64))

        each = np.array([probabilities([member]) for member in members])
        np.testing.assert_allclose(probabilities(members), each.mean(axis=0), rtol=0, atol=1e-6)
        assert np.abs(each[0] - each[1]).max() > 0.1
        # The third one's windows are others than with its neighbours' shorter side.
        narrow = replace(members[2], preprocessing=members[0].preprocessing)
        assert (np.abs(probabilities([narrow]) - each[2]).max() > 0.01) == (name != "dense")


def test_scores_that_are_no_numbers(images):
    trained = network()
    variables = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), trained.variables)
    with pytest.raises(InputError, match="the scores of image 0 are not numbers"):
        list(score_images([replace(trained, variables=variables)], images[:1], protocols.choose("center"), 1))


def test_probabilities_do_not_underflow(images):
    """A class may be less probable than the smallest float32, and its loss is still a number."""
    trained = network()
    fc = trained.variables["params"]["fc"]
    params = trained.variables["params"] | {
        "fc": {"kernel": fc["kernel"], "bias": 1e4 * np.eye(10, dtype=np.float32)[3]}
    }
    trained = replace(trained, variables=trained.variables | {"params": params})
    for name in protocols.NAMES:
        protocol = protocols.choose(name, (32,) if name == "dense" else None)
        (found,) = score_images([trained, trained], images[:1], protocol, 1, devices=1)
        assert (found.damage, found.scores.shape) == ("", (10,))
        assert np.isfinite(found.scores).all()
        assert -1.1e4 < found.scores[0] < -0.9e4


def test_evaluate_takes_classifiers_and_any_split(images):
    said = []
    photographs = evaluate(network(), images, log=said.append)
    assert [photographs.summary()[name] for name in ("images", "damaged")] == [51, 2]
    assert sorted(line.split(" is damaged")[0] for line in said) == ["notes", "nothing"]
    pixels = np.random.default_rng(4).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    split = Split(pixels, np.arange(20, dtype=np.int32) % 10)
    members = [network(0), network(1)]
    each = [np.asarray(jax.nn.softmax(member(pixels)), np.float64) for member in members]
    for classifiers, expected in ((members[0], each[0]), (members, np.mean(each, axis=0))):
        found = evaluate(classifiers, split, batch_size=7)
        assert found.predicted.tolist() == expected.argmax(1).tolist()
        assert found.error == pytest.approx((expected.argmax(1) != split.labels).mean())
        assert found.loss == pytest.approx(-np.log(expected[np.arange(20), split.labels]).mean(), rel=1e-4)
    for classifiers, message in (
        ([], "at least one classifier"),
        ([members[0], members[1].replace(class_names=tuple("abcdefghix"))], "class 9 is 'x' in classifier 1, but 'j'"),
        (members[0].replace(image_shape=(8, 8, 3)), "for images of 8 x 8 x 3, but those of the data are 32 x 32 x 3"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(classifiers, split)
