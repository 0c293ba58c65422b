"""The network of a config: the families that the paper is compared with, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import models
from resnet_jax.configs import parsing
from resnet_jax.configs.fields import OF_WEIGHTS, flat
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.interop.classifiers import save_torch
from resnet_jax.models import Gates
from resnet_jax.runs import build, checks, starting

SMALL = models.ResNet((1,), (4,), False, "cifar", 2, "A")


def network(**fields):
    config = parsing.load("digits", {f"model.{name}": value for name, value in fields.items()})
    checks.check(config)
    return build.model(config, 10)


def test_fields_reach_the_network():
    assert network(family="cifar_preact") == network().clone(preactivation=True)
    assert network(family="cifar_highway").gates == Gates("learned", "coupled", None)
    uncoupled = network(family="cifar_highway", gates="uncoupled", gate_bias=-3.0)
    assert uncoupled.gates == Gates("learned", "learned", -3.0)
    assert network(padding="wrap").padding == "wrap"
    single = network(block_layers=1, depth=11)
    assert (single.block_layers, single.stage_sizes) == (1, (3, 3, 3))


def test_fields_that_mean_nothing_to_the_network_are_named():
    def said(config, **fields):
        return build.without_effect(parsing.load(config, {f"model.{name}": value for name, value in fields.items()}))

    packaged = ("digits", "digits:plain", "cifar10", "imagenet", "imagenet_90ep", "folder")
    assert [said(each) for each in packaged] == [None] * 6
    assert said("imagenet:plain", depth=34) is None
    assert said("cifar10", shortcut="C") is None
    assert said("cifar10:plain", shortcut="C") == "config.model.shortcut=C has no effect on cifar_plain20"
    assert said("digits", bottleneck_stride="3x3", stem_pool_padding="torch") == (
        "config.model.bottleneck_stride=3x3, config.model.stem_pool_padding=torch have no effect on cifar_resnet20"
    )
    assert said("imagenet_90ep", depth=18) == "config.model.bottleneck_stride=3x3 has no effect on resnet18"
    assert said("imagenet", shortcut_padding="both") == "config.model.shortcut_padding=both has no effect on resnet50"


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        ("digits", {"init.head": "keep"}, "config.init.head=keep has no effect without config.init.weights"),
        ("finetune", {"init.weights": "a", "init.head": "keep"}, None),
        (
            "digits",
            {"init.live_statistics": True},
            "config.init.live_statistics=true has no effect without config.init.freeze",
        ),
        (
            "digits",
            {"dataset.data_dir": "/nowhere", "stream.image_size": 7},
            "config.stream.image_size=7, config.dataset.data_dir=/nowhere have no effect on digits",
        ),
        ("cifar10", {"dataset.data_dir": "/data"}, None),
        ("folder", {"dataset.pad": 2}, "config.dataset.pad=2 has no effect on folder"),
        (
            "finetune",
            {"init.weights": "a", "model.zero_init_residual": True, "dataset.name": "digits"},
            "config.model.zero_init_residual=true has no effect beside config.init.weights",
        ),
        (
            "digits",
            {"optimizer.patience": 3, "optimizer.warmup_start": 0.1},
            "config.optimizer.patience=3 has no effect without config.optimizer.schedule=plateau; "
            "config.optimizer.warmup_start=0.1 has no effect without config.optimizer.warmup_steps",
        ),
        ("digits", {"optimizer.patience": 3, "optimizer.schedule": "plateau"}, None),
        ("imagenet_90ep:large_batch", {}, None),
        (
            "finetune",
            {"init.weights": "a", "optimizer.rate_factors": "5,0,1,5,1"},
            "config.optimizer.rate_factors has no effect on stem, stage3 with config.init.freeze=backbone",
        ),
        ("finetune", {"init.weights": "a", "init.freeze": "stem", "optimizer.rate_factors": "0,1,2,3,4"}, None),
    ],
)
def test_fields_that_mean_nothing_to_the_run_are_named(config, fields, message):
    given = parsing.load(config, fields)
    if config == "finetune":  # as weights fill it in
        values = flat(parsing.load("digits"))
        given.update_from_flattened_dict({name: values[name] for name in OF_WEIGHTS})
    assert build.without_effect(given) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"padding": "warp"},
            "config.model.padding is 'warp', but it must be one of zeros, wrap: did you mean",
        ),
        ({"block_layers": 4}, "config.model.block_layers is 4, but it must be one of 1, 2, 3"),
        ({"block_layers": 3, "depth": 32}, r"with blocks of 3 layers have 9n\+2 layers, .* the nearest depth is 29"),
        ({"gates": "open"}, "config.model.gates is 'open', but it must be one of coupled, uncoupled"),
        ({"gates": "uncoupled"}, "config.model.gates is 'uncoupled', but a cifar_resnet has no gates: take the family"),
        (
            {"family": "cifar_plain", "gate_bias": -4.0},
            "config.model.gate_bias is -4.0, but a cifar_plain has no gates: .* or leave it at none",
        ),
        (
            {"family": "cifar_highway", "gate_bias": math.nan},
            "config.model.gate_bias is nan, but it must be from -100 to 100",
        ),
        (
            {"family": "cifar_highway", "gate_bias": 1e30},
            r"config.model.gate_bias is 1e\+30, but it must be from -100 to 100",
        ),
        (
            {"batch_norm_epsilon": math.inf},
            "config.model.batch_norm_epsilon is inf, but it must be finite",
        ),
        ({"family": "highway"}, "config.model.family is 'highway', but it must be one of .*: did you mean 'cifar_high"),
        ({"family": "cifar_preact", "zero_init_residual": True}, "zero_init_residual is not for preactivation"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(map(str, value.values())),
)
def test_what_no_network_has_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        network(**fields)


def classifier(**fields):
    model = SMALL.clone(**fields)
    variables = models.init(model, (8, 8, 1), jax.random.key(0))
    return Classifier(model, variables, Preprocessing(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))), ("a", "b"), (8, 8, 1))


def test_weights_of_such_networks_are_for_such_networks(tmp_path):
    weights = classifier(padding="wrap")
    config = parsing.load("digits", {"init.weights": "w.npz", "model.depth": 4})
    with pytest.raises(InputError, match=r"config.model.padding is 'zeros', but it is 'wrap' of the weights w.npz"):
        starting.resolved(config, weights)
    for fields, message in (({"padding": "wrap"}, "padding='wrap'"), ({"gates": Gates()}, "gates=Gates")):
        with pytest.raises(InputError, match=f"torch's layouts have no networks with {message}"):
            save_torch(classifier(**fields), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
