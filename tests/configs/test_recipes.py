"""Packaged recipes against their sources, and configs that would be trained to the end and learn nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.configs import fields as config_fields, parsing
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet, create
from resnet_jax.models.layers import batch_norm_maps
from resnet_jax.runs import build, checks, length, loop, workdir
from resnet_jax.training import optimizers
from small_run import parts


def test_large_batches_follow_goyal():
    """1706.02677: sections 2.2, 3 (remark 2), 5.1 and the rule of linear scaling."""
    config = parsing.load("imagenet_90ep:large_batch")
    fields = config.optimizer
    assert (config.train.batch_size, config.model.bn_group_size, config.model.zero_init_residual) == (8_192, 32, True)
    assert (fields.momentum, fields.momentum_form, fields.decay, fields.weight_decay) == (0.9, "torch", "kernels", 1e-4)
    epoch = 1_281_167 / 8_192
    assert length.length(config).warmup == int(5 * epoch)
    # "from a learning rate of eta … increment it by a constant amount at each iteration such that it reaches k eta
    # after 5 epochs"; then a tenth of it at the 30th, 60th and 80th epoch.
    steps = [0, 1, 390, 780, 781, 4_690, 4_691, 9_382, 9_383, 12_510, 12_511]
    expected = [
        0.1,
        0.1 + 3.1 / 781,
        0.1 + 3.1 * 390 / 781,
        3.2 - 3.1 / 781,
        3.2,
        3.2,
        0.32,
        0.32,
        0.032,
        0.032,
        0.0032,
    ]
    assert [int(epochs * epoch) for epochs in (30, 60, 80)] == [4_691, 9_383, 12_511]
    np.testing.assert_allclose(build.schedule(config)(jnp.array(steps)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["imagenet", "imagenet:plain", "imagenet_90ep", "cifar10", "folder", "digits"])
def test_other_recipes_keep_the_papers_form(name):
    config = parsing.load(name)
    fields = config.optimizer
    assert (fields.momentum_form, fields.decay, fields.warmup_start) == ("caffe", "all", None)
    assert config.model.zero_init_residual is False


@pytest.mark.parametrize(
    ("name", "bn_group_size"),
    [
        ("cifar10", 64),
        ("cifar10:plain", 64),
        ("cifar100", 64),
        ("imagenet", 32),
        ("imagenet:plain", 32),
        ("imagenet_90ep", 32),
        ("digits", None),
        ("folder", None),
    ],
)
def test_statistic_groups_are_those_of_one_of_the_papers_gpus(name, bn_group_size):
    config = parsing.load(name)
    assert config.model.bn_group_size == bn_group_size
    checks.check(config)


def test_a_batch_that_the_groups_do_not_divide():
    with pytest.raises(
        InputError, match=r"bn_group_size=64 does not fit 100 images: use a divisor of 100 such as 50, or"
    ):
        checks.check(parsing.load("cifar10", ["train.batch_size=100"]))
    checks.check(parsing.load("cifar10", ["train.batch_size=100", "model.bn_group_size=50"]))
    config = parsing.load("cifar10", ["train.batch_size=100", "model.bn_group_size=none"])
    checks.check(config)
    assert config.model.bn_group_size is None


def test_a_run_of_before_goes_on_with_its_own_groups(tmp_path):
    """Its config.json has none, and none of the younger fields."""
    old = json.loads(parsing.load("cifar10").to_json_best_effort())
    for name, new in config_fields.CHANGES[2].renamed.items():
        section, field = new.split(".")
        old[section][name.split(".")[1]] = old[section].pop(field)
    old["model"]["group_size"], old["stream"]["crop"] = None, "scale"
    del old["model"]["zero_init_residual"], old["optimizer"]["momentum_form"], old["optimizer"]["ramp_learning_rate"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert workdir.read_config(tmp_path).model.bn_group_size is None
    with pytest.raises(InputError, match=r"differs in model.bn_group_size \(none there, 64 asked for\)"):
        workdir.claim(tmp_path, parsing.load("cifar10"))
    workdir.claim(tmp_path, parsing.load("cifar10", ["model.bn_group_size=None"]))


@pytest.mark.parametrize(
    "field", ["optimizer.trust_coefficient", "mesh.data", "train.keep_every", "stream.num_workers"]
)
def test_numbers_that_may_be_none_can_be_unset(field):
    section, name = field.split(".")
    assert parsing.load("digits", [f"{field}=2"])[section][name] == 2
    assert parsing.load("digits", [f"{field}=2", f"{field}=none"])[section][name] is None


def test_other_fields_cannot_be_none():
    with pytest.raises(InputError, match="batch_size=none"):
        parsing.load("digits", ["train.batch_size=none"])
    assert parsing.load("digits", ["dataset.data_dir=none"]).dataset.data_dir == "none"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=0", "learning_rate is 0, with which no parameter changes"),
        ("optimizer.factor=0", "the first drop of the rate ends all learning"),
        ("optimizer.momentum=1", "optimizer.momentum is 1"),
        ("optimizer.weight_decay=20", "each iteration would take away all of the parameters"),
        ("optimizer.momentum_form=nesterov", "^config.optimizer.momentum_form is 'nesterov', but it must be one of"),
        ("optimizer.warmup_start=-0.1", "warmup_start is -0.1, but it must be at least 0"),
        ("model.batch_norm_momentum=1", "running statistics that evaluation uses stay"),
    ],
)
def test_numbers_with_which_nothing_is_learnt(override, message, tmp_path):
    with pytest.raises(InputError, match=message):
        loop.train(parsing.load("digits", [override]), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_plain_network_has_no_residual_branch():
    with pytest.raises(InputError, match="zero_init_residual is for residual networks"):
        checks.check(parsing.load("digits:plain", ["model.zero_init_residual=true"]))
    with pytest.raises(ValueError, match="zero_init_residual is for residual networks"):
        create("plain18", zero_init_residual=True)


def imagenet_network(config, classes=2):
    config.model.update(family="resnet", depth=18, shortcut="B")
    checks.check(config)
    return build.model(config, classes)


# Of an ImageNet network 32 pixels become 16, 8, 8, 4, 2, 1; 35 become 18, 9, 9, 5, 3, 2.
@pytest.mark.parametrize(
    ("overrides", "side", "message"),
    [
        ("train.batch_size=8 train.grad_accum_steps=8", 32, "batch_size=8 has"),
        ("train.batch_size=1", 32, "train.batch_size is 1"),
        ("train.batch_size=64 model.bn_group_size=1", 32, "model.bn_group_size is 1"),
        ("train.batch_size=8 train.grad_accum_steps=4", 32, None),
        ("train.batch_size=1", 35, None),
        ("train.batch_size=64 model.bn_group_size=1", 64, None),
        ("train.batch_size=64 train.grad_accum_steps=64 model.bn_group_size=1", 35, None),
    ],
)
def test_batch_norms_that_see_one_value(overrides, side, message):
    config = parsing.load("digits", overrides.split())
    network = imagenet_network(config)
    if message is None:
        checks.check_learnable(config, network, (side, side, 3))
        return
    with pytest.raises(InputError, match=r"stage4/first/bn1 .*1 x 1") as error:
        checks.check_learnable(config, network, (side, side, 3))
    assert message in str(error.value)


def test_both_kinds_of_task_refuse_them(tmp_path, monkeypatch):
    config = parsing.load("digits", ["train.batch_size=1", "mesh.data=1"])
    config.model.update(family="resnet", depth=18, shortcut="B")
    with pytest.raises(InputError, match="stage2/first/bn1 would see one value"):
        loop.train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())

    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            (tmp_path / "photos" / split / name / "1.png").write_bytes(b"not opened")
    fields = ["train.batch_size=8", "train.grad_accum_steps=8", "mesh.data=1", "stream.image_size=32"]
    config = parsing.load("folder", [*fields, f"dataset.data_dir={tmp_path / 'photos'}"])
    with pytest.raises(InputError, match=r"one value .* larger config.stream.image_size"):
        parts(config)


def test_one_class_is_nothing_to_tell_apart():
    config = parsing.load("digits")
    with pytest.raises(InputError, match="digits has 1 class"):
        checks.check_learnable(config, imagenet_network(config, classes=1), (32, 32, 3))


def test_a_single_value_is_normalised_to_zero():
    """What the refusal says: the logits of a network whose last maps are 1 x 1 do not depend on the image."""
    network = ResNet((2, 2), (4, 4), False, "imagenet", 2, "B")
    assert batch_norm_maps(network, (8, 8, 3))["stage2", "rest", "bn2"] == (1, 1)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), images, False))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables)
    logits = jax.jit(
        lambda images: network.clone(bn_group_size=1).apply(variables, images, True, mutable=["batch_stats"])[0]
    )(images)
    np.testing.assert_array_equal(logits, logits[:1].repeat(3, 0))


def quadratic_run(momentum_form, rates, weight_decay):
    """The path of two parameters under gradients of their own."""
    rng = np.random.default_rng(0)
    start, pulls = np.float32(rng.normal(size=2)), np.float32(rng.normal(size=(len(rates), 2)))
    table = jnp.asarray(rates, jnp.float32)
    optimizer = optimizers.sgd(lambda step: table[step], 0.9, weight_decay, momentum_form=momentum_form)
    params = {"kernel": jnp.asarray(start)}
    state = optimizer.init(params)
    path, seen = [], []
    for pull in pulls:
        gradient = {"kernel": params["kernel"] - pull}
        updates, state = optimizer.update(gradient, state, params, value=0.5)
        params = jax.tree.map(jnp.add, params, updates)
        path.append(np.asarray(params["kernel"]))
        seen.append(float(optimizers.learning_rate(state)))
    np.testing.assert_allclose(seen, rates, rtol=1e-6)  # the log reads the rate wherever it stands
    return start, pulls, np.array(path)


# A warm-up and two drops.
RATES = [0.01, 0.04, 0.07, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@pytest.mark.parametrize("form", ["caffe", "torch"])
def test_momentum_across_changes_of_the_rate(form):
    w, pulls, path = quadratic_run(form, RATES, 0.05)
    v = 0.0
    for rate, pull, found in zip(RATES, pulls, path, strict=True):
        gradient = w - pull + 0.05 * w
        if form == "caffe":
            v = 0.9 * v + rate * gradient
            w = w - v
        else:
            v = 0.9 * v + gradient
            w = w - rate * v
        np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-6)


def test_momentum_correction_makes_caffes_form_the_other():
    """1706.02677, equation 10 and remark 2: v times the new rate over the old one, where the rate changes."""
    w, pulls, path = quadratic_run("torch", RATES, 0.0)
    v, before = 0.0, RATES[0]
    for rate, pull, found in zip(RATES, pulls, path, strict=True):
        v = 0.9 * v * rate / before + rate * (w - pull)
        w, before = w - v, rate
        np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-6)


@pytest.mark.torch
def test_torchs_own_momentum():
    import torch

    start, pulls, path = quadratic_run("torch", RATES, 0.05)
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, weight_decay=0.05)
    for rate, pull, found in zip(RATES, pulls, path, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (0.5 * (weight - torch.tensor(pull)).square().sum()).backward()
        optimizer.step()
        np.testing.assert_allclose(found, weight.detach().numpy(), rtol=1e-5, atol=1e-6)
