"""Where in an image a network finds a class: class activation maps and Grad-CAM.

Of a network that ends with global average pooling and a linear layer, as the paper's do, the class activation map
(Zhou et al., 1512.04150) is that linear layer at every position of the last feature maps. So its mean and the bias of
the class are the logit, exactly; no backward pass is needed. Grad-CAM (Selvaraju et al., 1610.02391) weighs the maps of
any layer of any network by a class's mean gradient; on such a head it is ReLU(map) / positions.

Maps are unscaled, as logits are: two of them can be compared. Whoever draws them scales, and prints the scale.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier, check_classifier
from resnet_jax.models.stacking import is_stacked

Classes = int | Sequence[int] | Int[Array | np.ndarray, " batch"] | None


class ActivationMaps(NamedTuple):
    """A map of each image, for one class.

    Attributes:
      maps: (batch, height, width) float32, in the unit of logits; height and width are those of the feature maps.
      classes: the class of each map, (batch,) int32.
      logits: of all classes, (batch, classes) float32.
    """

    maps: Array
    classes: Array
    logits: Array


def class_activation_maps(
    classifier: Classifier, images: Num[Array | np.ndarray, "batch height width channels"], classes: Classes = None
) -> ActivationMaps:
    """The class activation map of each image: the sum of the last feature maps, weighted by the head's weights.

    Maps are signed: where one is negative, the network finds something that speaks against the class. The mean of a map
    plus the bias of its class is the logit.

    Args:
      classifier: a network with `stages` and a linear head "fc" on the averages of the last one, such as a `ResNet`.
      images: RGB or grey, 0 to 255, uint8 or float.
      classes: of all images or of each; None is each image's most probable class.

    Raises:
      InputError: another head, or a class that the network does not know.

    Example:
      >>> import resnet_jax as rj
      >>> model, shape = rj.create("cifar_resnet8", num_classes=2), (8, 8, 1)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> preprocessing = rj.data.Preprocessing(jnp.zeros((1, 1, 1)))
      >>> classifier = rj.Classifier(model, variables, preprocessing, ("cat", "dog"), shape)
      >>> maps, classes, logits = class_activation_maps(classifier, np.full((3, *shape), 255, np.uint8), classes=1)
      >>> maps.shape, bool(jnp.allclose(maps.mean((1, 2)), logits[:, 1], atol=1e-5))  # the head's bias is zero
      ((3, 2, 2), True)
    """
    check_classifier(classifier, "images")
    _check_head(classifier, images)
    wanted = _checked(classifier, images, classes)
    return ActivationMaps(*_cam(classifier.model, classifier.variables, classifier.preprocessing, images, wanted))


def grad_cam(
    classifier: Classifier,
    images: Num[Array | np.ndarray, "batch height width channels"],
    classes: Classes = None,
    layer: str = "",
) -> ActivationMaps:
    """Grad-CAM of each image: a layer's maps, weighted by the mean gradients of the class's logit, without what is
    negative.

    It is for networks without a linear head and for layers that are not the last; a map that is zero everywhere says
    that the layer has nothing that speaks for the class. Gradients are those of logits, not of probabilities.

    Args:
      classifier: any network of images.
      images: RGB or grey, 0 to 255, uint8 or float.
      classes: of all images or of each; None is each image's most probable class.
      layer: the name of a module whose output is (batch, height, width, channels), such as "stage2" or
        "stage2/first/conv1"; "" is the last such module on the highest level. Blocks under "rest" are one scanned
        module and cannot be told apart.

    Raises:
      InputError: no such layer, or a class that the network does not know.

    Example:
      >>> maps, classes, logits = grad_cam(classifier, images, layer="stage2")  # doctest: +SKIP
    """
    check_classifier(classifier, "images")
    wanted = _checked(classifier, images, classes)
    layers = _layers(classifier, images)
    name = layer or [each for each in layers if "/" not in each][-1]
    if name not in layers:
        raise InputError(f"there is no layer {layer!r} with a map of its own: layers are {', '.join(layers)}")
    path = tuple(name.split("/"))
    preprocessing = classifier.preprocessing
    return ActivationMaps(
        *_grad_cam(classifier.model, path, layers[name], classifier.variables, preprocessing, images, wanted)
    )


def _checked(classifier: Classifier, images: Any, classes: Any) -> np.ndarray:
    """The class of each image, -1 for the most probable one."""
    wanted = np.broadcast_to(np.asarray(-1 if classes is None else classes), (len(images),))
    outputs = len(classifier.class_names)
    if classes is not None and (wanted.dtype.kind not in "iu" or not ((wanted >= 0) & (wanted < outputs)).all()):
        raise InputError(f"classes is {classes!r}, but it must hold whole numbers from 0 to {outputs - 1}")
    return wanted.astype(np.int32)


def _check_head(classifier: Classifier, images: Any) -> None:
    model, fc = classifier.model, classifier.variables["params"].get("fc")
    if fc is not None and hasattr(model, "stages") and hasattr(model, "head"):
        given = jax.eval_shape(classifier.preprocessing, images)
        maps = jax.eval_shape(partial(model.apply, classifier.variables, train=False, method="stages"), given)
        if fc["kernel"].shape[0] in (each.shape[-1] for each in maps.values()):
            return
    raise InputError(
        f"this {type(model).__name__} has no linear layer on averaged feature maps, of which alone there are class "
        "activation maps: use grad_cam"
    )


@partial(jax.jit, static_argnums=0)
def _cam(model: nn.Module, variables: Any, preprocessing: Preprocessing, images: Any, wanted: jax.Array) -> Any:
    maps: Any = model.apply(variables, preprocessing(images), train=False, method="stages")
    last = list(maps.values())[-1]
    logits: Any = model.apply(variables, last, method="head")
    classes = jnp.where(wanted < 0, logits.argmax(-1).astype(jnp.int32), wanted)
    weights = variables["params"]["fc"]["kernel"].T[classes]
    products = jnp.einsum("bhwk,bk->bhw", last.astype(weights.dtype), weights, precision="highest")
    return products, classes, logits


def _layers(classifier: Classifier, images: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of what modules put out, by their names, where that is one feature map."""
    found: dict[str, tuple[int, ...]] = {}

    def record(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        output = method(*args, **kwargs)
        path = context.module.path
        if path and context.method_name == "__call__" and getattr(output, "ndim", 0) == 4 and not is_stacked(path):
            found["/".join(path)] = output.shape
        return output

    with nn.intercept_methods(record):
        preprocessing = classifier.preprocessing
        jax.eval_shape(
            lambda images: classifier.model.apply(classifier.variables, preprocessing(images), False), images
        )
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _grad_cam(
    model: nn.Module,
    path: tuple[str, ...],
    shape: tuple[int, ...],
    variables: Any,
    preprocessing: Preprocessing,
    images: Any,
    wanted: jax.Array,
) -> Any:
    def scored(added: jax.Array) -> Any:
        """The sum of the logits of the classes, as a function of what is added to the layer's maps."""
        found: list[Any] = []

        def add(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = method(*args, **kwargs)
            if context.module.path == path and context.method_name == "__call__":
                output = output + added.astype(output.dtype)
                found.append(output)
            return output

        with nn.intercept_methods(add):
            logits: Any = model.apply(variables, preprocessing(images), train=False)
        classes = jnp.where(wanted < 0, logits.argmax(-1).astype(jnp.int32), wanted)
        return jnp.take_along_axis(logits, classes[:, None], 1).sum(), (found[-1], classes, logits)

    gradients, (maps, classes, logits) = jax.grad(scored, has_aux=True)(jnp.zeros(shape))
    weights = gradients.mean((1, 2))
    sums = jnp.einsum("bhwk,bk->bhw", maps.astype(weights.dtype), weights, precision="highest")
    return jnp.maximum(sums, 0.0), classes, logits
