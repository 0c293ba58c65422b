"""Measured figures, with the environment that they were measured in, and plans on paper.

`train_benchmark` and `input_benchmark` measure, and return what can be written as JSON: how fast a network trains on
data that lie on the devices, and how fast photographs become windows on the host. `collectives_benchmark` reads from
the compiled step what any number of devices would send each other. `render`, `render_input` and `render_collectives`
write these as tables.
"""

from resnet_jax.benchmark.collectives import collectives_benchmark
from resnet_jax.benchmark.collectives import render as render_collectives
from resnet_jax.benchmark.input import input_benchmark
from resnet_jax.benchmark.input import render as render_input
from resnet_jax.benchmark.train import render, train_benchmark

__all__ = [
    "collectives_benchmark",
    "input_benchmark",
    "render",
    "render_collectives",
    "render_input",
    "train_benchmark",
]
