"""Measured figures, with the environment that they were measured in.

`train_benchmark` and `input_benchmark` measure, and return what can be written as JSON: how fast a network trains on
data that lie on the devices, and how fast photographs become windows on the host. `render` and `render_input` write
these as tables.
"""

from resnet_jax.benchmark.input import input_benchmark
from resnet_jax.benchmark.input import render as render_input
from resnet_jax.benchmark.train import render, train_benchmark

__all__ = ["input_benchmark", "render", "render_input", "train_benchmark"]
