from .classifiers import load_torch as load_torch, save_torch as save_torch
from .exporting import export as export
from .torch_weights import from_torch as from_torch, to_torch as to_torch
