"""A ResNet-50 on real photographs: the paper's recipe and its whole way from the files to the weights."""

import shutil

import numpy as np
import pytest

from resnet_jax.configs import parsing
from resnet_jax.runs import loop
from small_run import assert_same_run, lines_of, saved_steps

pytestmark = pytest.mark.optimized

# 96 pixels: on smaller ones the last maps are 2 x 2, on which XLA:CPU convolves 512 channels thirty times slower.
FIELDS = """model.depth=50 model.bn_group_size=8 stream.image_size=96 stream.scales=(110,206) stream.resize_size=110
    optimizer.learning_rate=0.003 train.batch_size=16 train.iterations=16 train.log_every=2 train.eval_every=16
    train.checkpoint_every=10 mesh.data=1"""


def config_of(test_data, workers):
    fields = [*FIELDS.split(), f"dataset.data_dir={test_data / 'tfds'}"]
    return parsing.load("imagenet", [*fields, f"stream.num_workers={workers}"])


@pytest.mark.test_data
@pytest.mark.slow
def test_the_loss_falls_and_a_resumed_run_is_the_same(test_data, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    result = loop.train(config_of(test_data, workers=0), whole).result
    losses = [line["train_loss"] for line in lines_of(whole)]
    # From a thousand equally probable classes towards the two hundred that there are.
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3
    assert result["validation_images"] == 100

    # 200 photographs are 12.5 batches: iteration 10 is in the middle of the first epoch, 16 in the second.
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "16")
    (resumed / "result.json").unlink()
    assert saved_steps(resumed) == [10]
    again = loop.train(config_of(test_data, workers=2), resumed).result
    assert_same_run(resumed, whole)
    assert {name: again[name] for name in ("train_loss", "validation_loss")} == {
        name: result[name] for name in ("train_loss", "validation_loss")
    }
