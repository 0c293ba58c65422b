"""Measured figures, with the environment that they were measured in."""

from resnet_jax.benchmark.train import render, train_benchmark

__all__ = ["render", "train_benchmark"]
