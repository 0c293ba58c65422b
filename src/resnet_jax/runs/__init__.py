"""Runs: what ties networks, data, training and evaluation to a config and a folder.

A run is an input (`inputs`: where batches come from) and a task (`tasks`: what is learnt from them), which `loop`
drives without knowing either; `build` makes objects of a config's fields. In its workdir are `config_file`,
`metrics_log` and `checkpoints`, of which `metadata` says what they hold. `loading` reads a run again.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
