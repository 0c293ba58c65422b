"""Weights and programs that other libraries read and write."""
