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
`distributed` knows devices and processes, `benchmark` measures, `report` sets what was found beside the paper's
claims, and `errors` are what these raise. Each of them exports its public names and says which file holds what. Nothing
is imported before it is asked for.
"""

import importlib.metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
try:
    __version__ = importlib.metadata.version("deep-residual-jax")
except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
    __version__ = "not installed"
