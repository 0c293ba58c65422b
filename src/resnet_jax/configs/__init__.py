"""Packaged configs: each file has a `get_config(variant="")`, and a docstring with its command and what to expect."""
