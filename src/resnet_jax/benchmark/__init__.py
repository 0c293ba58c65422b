"""Measured figures, with the environment that they were measured in, as JSON-able dicts.

`train_benchmark` measures how fast a network trains on data that lie on the devices, `input_benchmark` how fast
photographs become windows on the host.
"""

from resnet_jax.benchmark.input import input_benchmark
from resnet_jax.benchmark.train import VARIANTS, Variant, train_benchmark

__all__ = ["VARIANTS", "Variant", "input_benchmark", "train_benchmark"]
