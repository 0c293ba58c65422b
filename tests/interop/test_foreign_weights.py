"""Weights that people bring: networks that share all names and shapes with ours, against torch's own logits."""

import argparse

import jax
import numpy as np
import pytest

import torch_networks
from resnet_jax import models
from resnet_jax.cli.main import main
from resnet_jax.errors import InputError
from resnet_jax.interop import torch_weights
from resnet_jax.interop.classifiers import load_torch
from resnet_jax.interop.files import read_weights, write_tensors
from torch_networks import nchw, random_torch_resnet, tensors_of

pytestmark = [pytest.mark.optimized, pytest.mark.torch]

torch = torch_networks.torch

CAFFE = {"bottleneck_stride": "1x1", "ceil_mode": True}


def images():
    return np.random.default_rng(1).normal(size=(2, 96, 64, 3)).astype(np.float32)


def logits_of(network):
    with torch.no_grad():
        return network.eval()(nchw(images())).numpy()


def our_logits(model, variables):
    return np.asarray(jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, images()))


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def blurred():
    return random_torch_resnet(18, blur=True)


def test_nothing_in_the_tensors_tells_anti_aliasing(blurred):
    """Which is why names and config.json are looked at, and why it is said what was assumed."""
    tensors, plain = tensors_of(blurred), tensors_of(random_torch_resnet(18))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in plain.items()
    }
    model = models.create("resnet18", num_classes=10, stem_pool_padding="torch")
    assert (
        relative_error(our_logits(model, torch_weights.from_torch(plain, model)), logits_of(random_torch_resnet(18)))
        < 1e-4
    )
    assert relative_error(our_logits(model, torch_weights.from_torch(tensors, model)), logits_of(blurred)) > 0.05


def test_an_anti_aliased_network_is_refused_by_its_name(blurred, tmp_path, capsys):
    torch.save(blurred.state_dict(), tmp_path / "resnetblur18-84f4748f.pth")
    assert main(["convert", str(tmp_path / "resnetblur18-84f4748f.pth"), str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "anti-aliased" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("depth", [18, 50])
def test_from_torch_is_right_or_refuses(depth):
    """The names of both are the same; of 18 layers pooling alone differs, from 50 layers on the stride as well."""
    theirs, caffes = random_torch_resnet(depth), random_torch_resnet(depth, **CAFFE)
    ours = models.create(f"resnet{depth}", num_classes=10)  # the paper's release
    with pytest.raises(InputError, match=r"stem_pool_padding='torch'.*but this one has stem_pool_padding='caffe'"):
        torch_weights.from_torch(tensors_of(theirs), ours)
    variables = torch_weights.from_torch(tensors_of(caffes), ours, "caffe")
    assert relative_error(our_logits(ours, variables), logits_of(caffes)) < 1e-4
    as_theirs = ours.clone(stem_pool_padding="torch", bottleneck_stride="3x3")
    variables = torch_weights.from_torch(tensors_of(theirs), as_theirs)
    assert relative_error(our_logits(as_theirs, variables), logits_of(theirs)) < 1e-4


def test_what_the_user_states_is_what_the_network_computes(tmp_path):
    caffes = random_torch_resnet(50, **CAFFE)
    write_tensors(tmp_path / "mine.safetensors", tensors_of(caffes))
    stated = {"model": "resnet50", "bottleneck_stride": "1x1", "stem_pool_padding": "caffe"}
    said = []
    network = load_torch(tmp_path / "mine.safetensors", log=said.append, **stated)
    assert relative_error(our_logits(network.model, network.variables), logits_of(caffes)) < 1e-4
    assert {"model=resnet50 (given)", "bottleneck_stride=1x1 (given)", "stem_pool_padding=caffe (given)"} <= set(said)


def test_training_checkpoints(blurred, tmp_path):
    """What torchvision's reference, timm, Lightning and torch.compile leave in files, some of it together."""
    state = blurred.state_dict()
    wrapped = {
        "plain": state,
        "example": {"epoch": 3, "arch": "resnet18", "state_dict": {f"module.{n}": t for n, t in state.items()}},
        "compiled": {"net": {f"_orig_mod.module.{n}": t for n, t in state.items()}, "acc": np.float64(91.7)},
        "lightning": {"state_dict": {f"model.{n}": t for n, t in state.items()}, "hyper_parameters": {"lr": 0.1}},
        "torchvision": {
            "model": {n: torch.zeros_like(t) for n, t in state.items()},
            "model_ema": {"n_averaged": torch.tensor(7), **{f"module.{n}": t for n, t in state.items()}},
            "args": argparse.Namespace(lr=0.5, device="cuda"),
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        },
    }
    for kind, content in wrapped.items():
        torch.save(content, tmp_path / f"{kind}.pth.tar")
        said = []
        tensors, _ = read_weights(tmp_path / f"{kind}.pth.tar", log=said.append)
        assert tensors.keys() == state.keys(), kind
        assert (tensors["fc.weight"] == state["fc.weight"].numpy()).all(), kind
        assert said == (
            ["of model, model_ema.module the average was taken, model_ema.module: another is taken by its prefix"]
            if kind == "torchvision"
            else []
        )
    assert read_weights(tmp_path / "example.pth.tar")[1] == {"arch": "resnet18"}
    assert not read_weights(tmp_path / "torchvision.pth.tar", "model")[0]["fc.weight"].any()


def test_the_arch_of_a_checkpoint_names_the_network(blurred, tmp_path):
    torch.save({"arch": "resnetblur18", "state_dict": blurred.state_dict()}, tmp_path / "model_best.pth.tar")
    with pytest.raises(InputError, match=r"arch='resnetblur18'.*anti-aliased"):
        load_torch(tmp_path / "model_best.pth.tar")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused_as_what_it_is(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"TorchScript program: save the network's state_dict\(\)"):
        read_weights(tmp_path / "a.pt")


def test_tensors_that_are_no_arrays_in_memory(tmp_path):
    for tensor in (
        torch.arange(6.0).reshape(2, 3).T,
        torch.nn.Parameter(torch.ones(3)),
        torch.ones(2, dtype=torch.float64),
        torch.ones(2).bfloat16(),
        torch.ones(2).to(torch.float8_e4m3fn),
    ):
        torch.save({"w": tensor}, tmp_path / "a.pth")
        np.testing.assert_array_equal(read_weights(tmp_path / "a.pth")[0]["w"], tensor.detach().float().numpy())
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(InputError, match=r"w is no plain array \(torch\.sparse_coo"):
        read_weights(tmp_path / "sparse.pth")
