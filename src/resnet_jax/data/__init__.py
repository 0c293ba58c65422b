"""Images: from disk (host) to normalised, augmented batches (device).

Photographs are read one way: `encoded` (what is not decoded yet) from `folders`, `prepared` or `cache`; `decode` to
pixels, of which `windows` says which part; `stream` (random windows, to train on) or `passes` (each photograph once, in
order). Small data sets are whole arrays: `sources` on the host, `pipeline` on the devices. `preprocessing` and
`augment` are applied on the devices, inside the compiled step.
"""

from typing import Any

__all__ = ["Batch", "Preprocessing", "image_folder", "load_small"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported when they are asked for: the command line lists its commands without JAX.
    from resnet_jax.data.batch import Batch
    from resnet_jax.data.images import image_folder
    from resnet_jax.data.preprocessing import Preprocessing
    from resnet_jax.data.small import load as load_small

    return {"Batch": Batch, "Preprocessing": Preprocessing, "image_folder": image_folder, "load_small": load_small}[
        name
    ]
