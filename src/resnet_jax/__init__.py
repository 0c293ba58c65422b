"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015) in JAX and Flax.

    import resnet_jax as rj

    model = rj.create("resnet50")                    # a Linen module
    classifier = rj.load("runs/mine")                # or rj.load_torch("resnet50.safetensors")
    photos = rj.data.image_folder("photos", image_size=224)
    classifier = rj.transfer(classifier, class_names=photos.class_names)
    rj.evaluate(classifier, photos.validation)       # the paper's protocols
    rj.predict(classifier, "new_photos/")
    run = rj.train(rj.configs.load("cifar10"), "runs/cifar10")

A network with its weights, its pre-processing and the names of its classes is a `Classifier`; it is what these
functions hand each other. The rooms are `models`, `data`, `training`, `evaluation`, `analysis`, `interop` (torch's
weights, exports), which know no config and no folder; `configs`, `runs` and `sweeping`, which tie them to both; and
`distributed`. Each of them exports its public names. Nothing is imported before it is asked for.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax import analysis as analysis
    from resnet_jax import configs as configs
    from resnet_jax import data as data
    from resnet_jax import distributed as distributed
    from resnet_jax import evaluation as evaluation
    from resnet_jax import interop as interop
    from resnet_jax import models as models
    from resnet_jax import runs as runs
    from resnet_jax import sweeping as sweeping
    from resnet_jax import training as training
    from resnet_jax.analysis.complexity import summary
    from resnet_jax.evaluation.classifier import Classifier, transfer
    from resnet_jax.evaluation.outcomes import evaluate
    from resnet_jax.evaluation.prediction import predict
    from resnet_jax.interop.classifiers import load_torch, save_torch
    from resnet_jax.models.zoo import create
    from resnet_jax.runs.loading import load
    from resnet_jax.runs.loop import train

__version__ = importlib.metadata.version("deep-residual-jax")

# Where the public names are.
_NAMES = {
    "Classifier": "evaluation.classifier",
    "create": "models.zoo",
    "evaluate": "evaluation.outcomes",
    "load": "runs.loading",
    "load_torch": "interop.classifiers",
    "predict": "evaluation.prediction",
    "save_torch": "interop.classifiers",
    "summary": "analysis.complexity",
    "train": "runs.loop",
    "transfer": "evaluation.classifier",
}
__all__ = [
    "Classifier",
    "analysis",
    "configs",
    "create",
    "data",
    "distributed",
    "evaluate",
    "evaluation",
    "interop",
    "load",
    "load_torch",
    "models",
    "predict",
    "runs",
    "save_torch",
    "summary",
    "sweeping",
    "train",
    "training",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
