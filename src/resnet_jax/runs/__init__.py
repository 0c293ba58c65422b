"""Runs: what ties models, data, training and evaluation to a config and a folder."""
