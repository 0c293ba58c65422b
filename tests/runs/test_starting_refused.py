"""Weights that a run cannot begin with: one line, and nothing is left."""

import dataclasses

import jax.numpy as jnp
import pytest

from resnet_jax.cli.main import main
from resnet_jax.interop.classifiers import save_torch
from resnet_jax.runs.loading import load


def test_a_mean_image_of_another_size_is_refused_for_arrays(run_of_20, tmp_path, capsys):
    cut = load(run_of_20)
    save_torch(
        cut.replace(
            image_shape=(32, 32, 1), preprocessing=dataclasses.replace(cut.preprocessing, mean=jnp.ones((32, 32, 1)))
        ),
        tmp_path / "a.safetensors",
        log=print,
    )
    command = [
        "train",
        "--config=digits",
        "--config.model.depth=8",
        f"--config.init.weights={tmp_path / 'a.safetensors'}",
    ]
    assert main([*command, f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = errors_of(capsys)
    assert "subtract a mean of each pixel of images of 32 x 32 x 1, and those of 'digits' are 8 x 8 x 1" in line
    assert not (tmp_path / "run").exists()


def errors_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


FILE, PHOTOS = "--config.init.weights={file}", ["--config=finetune", "--config.dataset.data_dir={photos}"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            PHOTOS,
            "config.init.weights is none, and so is config.model.family, which the weights would say: give config.in",
        ),
        (["--config=digits", "--config.model.depth=none"], "a file of weights, or a value for config.model.depth"),
        (
            [*PHOTOS, "--config.init.weights={root}/no.pth"],
            "config.init.weights is {root}/no.pth, which does not exist",
        ),
        ([*PHOTOS, "--config.init.weights={photos}"], "{photos} is not the workdir of a run"),
        ([*PHOTOS, "--config.init.weights="], "config.init.weights is '', which names no file or folder"),
        ([*PHOTOS, "--config.init.weights={photos}/val/red/0.png"], "is no file of weights by its name"),
        (
            [*PHOTOS, FILE, "--config.init.freeze=stage5"],
            "config.init.freeze is 'stage5', but of cifar_resnet8 it must",
        ),
        ([*PHOTOS, FILE, "--config.init.freeze=fc"], "must be one of stem, stage1, stage2, stage3, backbone"),
        (
            [*PHOTOS, FILE, "--config.init.head=old"],
            "config.init.head is 'old', but it must be one of zero, normal, keep",
        ),
        ([*PHOTOS, FILE, "--config.init.head=keep"], "have 10 classes and 'folder' has 2: give 'zero' or 'normal'"),
        ([*PHOTOS, FILE, "--config.init.live_statistics=2"], "config.init.live_statistics=2, but it must be true or"),
        ([*PHOTOS, FILE, "--config.model.depth=20"], "config.model.depth is 20, but it is 8 of the weights {file}"),
        ([*PHOTOS, FILE, "--config.model.shortcut_padding=end"], "is 'end', but it is 'both' of the weights"),
        ([*PHOTOS, FILE, "--config.stream.channel_order=bgr"], "is 'bgr', but it is 'rgb' of the weights"),
        ([*PHOTOS, FILE, "--config.stream.resize_size=8"], "config.stream.resize_size is 8, but no window"),
        (
            [*PHOTOS, FILE, "--config.optimizer.rate_factors=(1,1)"],
            "is (1, 1), but of cifar_resnet8 it must be 5 numbers",
        ),
        ([*PHOTOS, FILE, "--config.optimizer.rate_factors=(1,1,1,1,-1)"], "and none of them negative"),
        (
            [*PHOTOS, FILE, "--config.optimizer.rate_factors=(1,1,1,1,0)"],
            "with which no parameter of fc changes, and all",
        ),
        (
            ["--config=digits", "--config.optimizer.rate_factors=(0,0,0,0,0)"],
            "with which no parameter of stem, stage1,",
        ),
        (
            ["--config=digits", "--config.init.freeze=stem"],
            "config.init.freeze is 'stem', but there are no config.init",
        ),
        (
            ["--config=digits", "--config.model.depth=8", "--config.model.shortcut_padding=both", FILE],
            "channels differ",
        ),
        (["--config=folder", "--config.dataset.data_dir={photos}", FILE], "config.model.family is 'resnet', but it is"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(given, message, torch_file, coloured, tmp_path, capsys):
    named = {"file": torch_file, "photos": coloured, "root": tmp_path}
    arguments = [each.format(**named) for each in given]
    assert main(["train", *arguments, f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = errors_of(capsys)
    assert message.format(**named) in line
    assert not (tmp_path / "run").exists()


def test_weights_of_grey_images_are_not_for_photographs(run_of_20, coloured, tmp_path, capsys):
    command = ["train", "--config=finetune", f"--config.init.weights={run_of_20}", "--config.stream.image_size=32"]
    assert main([*command, f"--config.dataset.data_dir={coloured}", f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = errors_of(capsys)
    assert "are for images of 8 x 8 x 1, and those of 'folder' are 32 x 32 x 3: their numbers of channels" in line
    assert not (tmp_path / "run").exists()
