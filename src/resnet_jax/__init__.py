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
functions hand each other. The rooms `models`, `data`, `training`, `evaluation`, `analysis` and `interop` (weights of
torch, exported programs) know no config and no folder of a run; `configs`, `runs` and `sweeping` tie them to both;
`distributed` knows devices and processes, `benchmark` measures, and `errors` are what these raise. Each of them exports
its public names and says which file holds what. Nothing is imported before it is asked for.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

__version__ = importlib.metadata.version("deep-residual-jax")


def _exports(
    package: str, files: Mapping[str, Collection[str]], rooms: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose files are imported when a name is asked for.

    Args:
      package: its name.
      files: which public names are in which of its files.
      rooms: its public packages.
    """
    file_of = {name: file for file, names in files.items() for name in names}
    public = sorted([*file_of, *rooms])
    module = sys.modules[package]

    def find(name: str) -> Any:
        if name in file_of:
            return getattr(importlib.import_module(f"{package}.{file_of[name]}"), name)
        if name in rooms:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}: it has {', '.join(public)}")

    return find, lambda: [*(name for name in vars(module) if name.startswith("__")), *public], public


if TYPE_CHECKING:
    from resnet_jax import (
        analysis as analysis,
        benchmark as benchmark,
        configs as configs,
        data as data,
        distributed as distributed,
        errors as errors,
        evaluation as evaluation,
        interop as interop,
        models as models,
        runs as runs,
        sweeping as sweeping,
        training as training,
    )
    from resnet_jax.analysis.complexity import summary as summary
    from resnet_jax.evaluation.classifier import Classifier as Classifier, transfer as transfer
    from resnet_jax.evaluation.outcomes import evaluate as evaluate
    from resnet_jax.evaluation.prediction import predict as predict
    from resnet_jax.interop.classifiers import load_torch as load_torch, save_torch as save_torch
    from resnet_jax.models.zoo import create as create
    from resnet_jax.runs.loading import load as load
    from resnet_jax.runs.loop import train as train
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "analysis.complexity": ["summary"],
            "evaluation.classifier": ["Classifier", "transfer"],
            "evaluation.outcomes": ["evaluate"],
            "evaluation.prediction": ["predict"],
            "interop.classifiers": ["load_torch", "save_torch"],
            "models.zoo": ["create"],
            "runs.loading": ["load"],
            "runs.loop": ["train"],
        },
        [
            "analysis",
            "benchmark",
            "configs",
            "data",
            "distributed",
            "errors",
            "evaluation",
            "interop",
            "models",
            "runs",
            "sweeping",
            "training",
        ],
    )
