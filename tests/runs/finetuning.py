"""Photographs, weights and a config for runs that begin with weights."""

import jax
import numpy as np
from PIL import Image

from resnet_jax import models
from resnet_jax.configs import parsing
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.interop.classifiers import save_torch

COLOURS = ("green", "red")
FINETUNED = {
    "train.batch_size": 8,
    "train.iterations": 20,
    "train.log_every": 5,
    "train.eval_every": 10,
    "train.checkpoint_every": 5,
    "optimizer.warmup_steps": 0,
    "stream.num_workers": 0,
    "mesh.data": 1,
}


def make_photographs(root):
    """14 photographs, 6 to train on and 8 to validate on, of one colour and some noise each."""
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 4)):
        for name, colour in zip(COLOURS, ((0, 200, 0), (200, 0, 0)), strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + random.integers(0, 56, (40, 48 + i, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def make_weights(path):
    """A file of a CIFAR ResNet-8 as it is drawn, of ten classes, which akamaster's would be."""
    shape = (32, 32, 3)
    model = models.create("cifar_resnet8", shortcut_padding="both")
    variables = models.init(model, shape, jax.random.key(0))
    names = tuple(f"class {i}" for i in range(10))
    save_torch(Classifier(model, variables, Preprocessing.of_channels(), names, shape), path)
    return path


def finetune(weights, photographs, fields=None):
    given = {"init.weights": str(weights), "dataset.data_dir": str(photographs)}
    return parsing.load("finetune", given | FINETUNED | (fields or {}))
