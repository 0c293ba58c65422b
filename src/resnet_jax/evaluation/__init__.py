"""Evaluation: what a trained network makes of images."""
