"""A network with all that its predictions need; it knows no config, no folder and no mesh."""

from collections.abc import Sequence, Set
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import rng
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.compiler import jit
from resnet_jax.errors import InputError, warn
from resnet_jax.models import ResNet, abstract_variables


class Classifier(flax.struct.PyTreeNode):
    """A network, its weights, the pre-processing that they were trained with, and the names of its classes.

    It is immutable, `replace(field=value)` makes another one. It is a pytree too, whose leaves are the variables and
    the arrays of the pre-processing: `jax.device_put(classifier, sharding)` and `jax.jit` take it.

    Attributes:
      model: a Linen module that is called with (images, train), such as a `models.ResNet`.
      variables: {"params": …, "batch_stats": …}.
      preprocessing: from uint8 pixels to what the model is given; it also says how an image is resized.
      class_names: in the order of the logits.
      image_shape: (height, width, channels) that the network was trained on.

    Example:
      >>> import jax, numpy as np, resnet_jax as rj
      >>> model, shape = rj.create("cifar_resnet8", num_classes=2), (32, 32, 3)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> classifier = Classifier(model, variables, rj.data.Preprocessing.of_channels(), ("cat", "dog"), shape)
      >>> classifier(np.zeros((4, 32, 32, 3), np.uint8)).shape
      (4, 2)
      >>> classifier
      Classifier(ResNet, 74,770 parameters, images 32 x 32 x 3, 2 classes: cat, dog)
    """

    model: nn.Module = flax.struct.field(pytree_node=False)
    variables: Any
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    image_shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def __post_init__(self):
        names = self.class_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise InputError(f"class_names is {names!r}, but it must be a tuple of names, such as ('cat', 'dog')")

    def __call__(self, images: jax.Array | np.ndarray) -> jax.Array:
        """Logits: RGB or grey images (batch, height, width, channels), 0 to 255, uint8 or float -> (batch, classes)
        float32. Each new shape or dtype is compiled, which `predict` does for few numbers of images.

        An InputError where the weights do not fit the model, or the images are no such batch.
        """
        check_batch(self, images)
        return _logits(self, images)

    def __repr__(self) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        size, names = " x ".join(map(str, self.image_shape)), self.class_names
        listed = ", ".join((*names[:3], *(["…"] if len(names) > 3 else [])))
        network = type(self.model).__name__
        return f"Classifier({network}, {parameters:,} parameters, images {size}, {len(names)} classes: {listed})"


@jit
def _logits(classifier: Classifier, images: jax.Array) -> Any:
    check_fit(classifier, images)  # where it is traced, and so once for all images of a shape
    return classifier.model.apply(classifier.variables, classifier.preprocessing(images), train=False)


HEADS = ("zero", "normal")


def transfer(
    classifier: Classifier,
    class_names: Sequence[str],
    seed: int = 0,
    *,
    head: str = "zero",
    freeze: str | None = None,
    live_statistics: bool = False,
) -> Classifier:
    """The network with a new head, for classes of one's own: everything below keeps its weights and statistics.

    Args:
      classifier: a trained network, whose last layer is "fc".
      class_names: in the order of the new logits.
      seed: of a head that is drawn.
      head: "zero", with which the first step sends nothing random into the weights below (as BiT, 1912.11370), or
        "normal", drawn as that of a new network; its bias is zero either way.
      freeze, live_statistics: which parts are not trained on, see `models.ResNet`.

    Raises:
      InputError: the network has no such layer or no such part, or these are no names of classes.

    Example:
      >>> import resnet_jax as rj
      >>> classifier = rj.load_torch("resnet50.safetensors")  # doctest: +SKIP
      >>> rj.transfer(classifier, ["cat", "dog"], freeze="stage3").model.num_classes  # doctest: +SKIP
      2
    """
    check_classifier(classifier, "the names of its classes")
    if head not in HEADS:
        raise InputError(f"head is {head!r}, but it must be one of {', '.join(HEADS)}")
    network = with_outputs(classifier, class_names)
    if live_statistics and freeze is None:
        warn(
            "live_statistics=True has no effect without freeze: all batch norms use the batch's statistics in training"
        )
    try:
        network = network.clone(freeze=freeze, live_statistics=live_statistics)
    except ValueError as error:
        raise InputError(str(error)) from error
    last_maps = jnp.zeros((1, 1, 1, len(classifier.variables["params"]["fc"]["kernel"])))
    fc = network.init(rng.stream(seed, "head"), last_maps, method="head")["params"]["fc"]
    return with_head(classifier, network, class_names, fc if head == "normal" else jax.tree.map(jnp.zeros_like, fc))


def with_outputs(classifier: Classifier, class_names: Sequence[str]) -> ResNet:
    """The network with as many outputs as there are names, and nothing frozen.

    Raises:
      InputError: it has no head that could be replaced, or these are no names.
    """
    # A set's order is another one in each process.
    if isinstance(class_names, str | Set) or not hasattr(class_names, "__len__") or not len(class_names):
        raise InputError(
            f"class_names is {class_names!r}, but it must hold the name of each class, in their order: give a list"
        )
    seen = set()
    for name in class_names:
        if not isinstance(name, str):
            raise InputError(f"class_names holds {name!r}, but a name is text: give {str(name)!r}, say")
        if name in seen:
            raise InputError(f"class_names holds {name!r} twice, but each class must have a name of its own")
        seen.add(name)
    if not isinstance(classifier.model, ResNet):
        raise InputError(f"a {type(classifier.model).__name__} has no head that could be replaced: only ResNets have")
    return classifier.model.clone(num_classes=len(class_names), freeze=None, live_statistics=False)


def with_head(classifier: Classifier, network: ResNet, class_names: Sequence[str], fc: Any) -> Classifier:
    """The classifier with other classes: the network of `with_outputs`, and its head {"kernel", "bias"}."""
    variables = {**classifier.variables, "params": {**classifier.variables["params"], "fc": fc}}
    return classifier.replace(model=network, variables=variables, class_names=tuple(class_names))


def check_classifier(given: Any, then: str) -> None:
    """Refuses what is no `Classifier` in the name of a function that wants one and then something else."""
    if not isinstance(given, Classifier):
        raise InputError(
            f"{type(given).__name__} is no classifier: give what load, load_torch or train(…).classifier returns, and "
            f"then {then}"
        )


def check_batch(classifier: Classifier, images: Any) -> None:
    """Refuses what is no array of images for a classifier."""
    if not isinstance(images, np.ndarray | jax.Array):
        raise InputError(
            f"images are a {type(images).__name__}, but they must be one array, as np.stack makes of a list"
        )
    channels = classifier.image_shape[2]
    if images.ndim != 4 or images.shape[3] not in (1, channels):
        raise InputError(
            f"images are {images.shape}, but they must be (count, height, width, channels), with the network's "
            f"{channels} channels"
        )
    if not any(jnp.issubdtype(images.dtype, kind) for kind in (jnp.integer, jnp.floating)):
        raise InputError(f"images are {images.dtype}, but they must be numbers from 0 to 255, uint8 or float")


def check_multiple(size: int, of: str, **counts: int) -> None:
    """Refuses a number that is no multiple of a size, by its name.

    >>> check_multiple(64, "bn_group_size", batch_size=100)
    Traceback (most recent call last):
    resnet_jax.errors.InputError: batch_size is 100, but it must be a multiple of 64, which is bn_group_size
    """
    for name, count in counts.items():
        if count % size:
            raise InputError(f"{name} is {count}, but it must be a multiple of {size}, which is {of}")


def check_fit(classifier: Classifier, images: Any) -> None:
    """Refuses what is no batch of images for a classifier, and weights of another network than its model, by shapes and
    types alone.
    """
    check_batch(classifier, images)
    trees = abstract_variables(classifier.model, classifier.image_shape), classifier.variables
    wanted, given = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, trees)
    )
    for name in {**wanted, **given}:
        ours, theirs = wanted.get(name, "none"), given.get(name, "absent")
        if ours != theirs:
            raise InputError(
                f"the weights are not of the classifier's model: {name} is {theirs}, but this "
                f"{type(classifier.model).__name__} has {ours}: replace model and variables together"
            )
