"""Where in an image a network finds a class: class activation maps and Grad-CAM.

Of a network that ends with global average pooling and a linear layer, as the paper's do, the class activation map
(Zhou et al., 1512.04150) is that linear layer at every position of the last feature maps. So its mean and the bias of
the class are the logit, exactly; no backward pass is needed. Grad-CAM (Selvaraju et al., 1610.02391) weighs the maps of
any layer of any network by a class's mean gradient; on such a head it is ReLU(map) / positions.

Maps are unscaled, as logits are: two of them can be compared. Whoever draws them scales, and prints the scale.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from resnet_jax.analysis.inputs import check_classes, check_finite, check_images, unfrozen
from resnet_jax.analysis.receptive_field import receptive_fields
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import VGG, ResNet
from resnet_jax.models.stacking import is_stacked

Classes = int | Sequence[int] | Int[Array | np.ndarray, " batch"] | None


class ActivationMaps(NamedTuple):
    """A map of each image, for one class.

    Attributes:
      maps: (batch, height, width) float32, in the unit of logits; height and width are those of the feature maps.
      classes: the class of each map, (batch,) int32.
      logits: of all classes, (batch, classes) float32.
      grid: where in an image the cells of a map lie, for `upsample`: the pixel at the centre of what the first cell
        sees, and the pixels from one cell to the next, along both axes. None where the network is neither a `ResNet`
        nor a `VGG`.
    """

    maps: Array
    classes: Array
    logits: Array
    grid: tuple[float, float] | None = None


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
      InputError: another head, logits that are not finite, or classes that the network does not know or that are not
        one of each image.

    Example:
      >>> import resnet_jax as rj
      >>> model, shape = rj.create("cifar_resnet8", num_classes=2), (8, 8, 1)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> preprocessing = rj.data.Preprocessing(jnp.zeros((1, 1, 1)))
      >>> classifier = rj.Classifier(model, variables, preprocessing, ("cat", "dog"), shape)
      >>> found = class_activation_maps(classifier, np.full((3, *shape), 255, np.uint8), classes=1)
      >>> found.maps.shape, found.grid
      ((3, 2, 2), (0.0, 4.0))
      >>> bool(jnp.allclose(found.maps.mean((1, 2)), found.logits[:, 1], atol=1e-5))  # the head's bias is zero
      True
    """
    wanted = _checked(classifier, images, classes)
    model, variables = classifier.model, classifier.variables
    if hasattr(model, "stages") and hasattr(model, "head") and "fc" in variables["params"]:
        maps, answers, logits, gap = _cam(model, variables, classifier.preprocessing, images, wanted)
        check_finite(logits)
        # The head is known by what it computes: rounding is far below this, also that of devices with short products.
        if gap <= 0.01 * np.abs(logits).max():
            return ActivationMaps(maps, answers, logits, _grid(model, "last", maps, images))
    raise InputError(
        f"this {type(model).__name__} has no linear layer on averaged feature maps, of which alone there are class "
        "activation maps: use grad_cam, where it has feature maps"
    )


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
      InputError: no such layer, logits that are not finite, or classes that the network does not know or that are not
        one of each image.

    Example:
      >>> maps, classes, logits = grad_cam(classifier, images, layer="stage2")  # doctest: +SKIP
    """
    wanted = _checked(classifier, images, classes)
    layers = _layers(classifier, images)
    if not layers:
        raise InputError(f"a {type(classifier.model).__name__} has no layer with feature maps")
    name = layer or [each for each in layers if "/" not in each][-1]
    if name not in layers:
        raise InputError(f"there is no layer {layer!r} with a map of its own: layers are {', '.join(layers)}")
    path = tuple(name.split("/"))
    # Gradients reach every layer, and no block is computed a second time: the second would not be the first one's.
    model = unfrozen(classifier.model)
    model = model.clone(remat=False) if getattr(model, "remat", False) else model
    maps, answers, logits = _grad_cam(
        model, path, layers[name], classifier.variables, classifier.preprocessing, images, wanted
    )
    check_finite(logits)
    return ActivationMaps(maps, answers, logits, _grid(model, name, maps, images))


def _checked(classifier: Classifier, images: Any, classes: Any) -> np.ndarray:
    """The class of each image, -1 for the most probable one."""
    check_images(classifier, images)
    wanted = np.asarray(-1 if classes is None else classes)
    if wanted.shape not in ((), (len(images),)):
        raise InputError(f"there are {len(images)} images and classes {wanted.shape}: give one, or one of each")
    wanted = np.broadcast_to(wanted, (len(images),))
    if classes is not None:
        check_classes(classifier, classes=wanted)
    return wanted.astype(np.int32)


def _grid(model: Any, name: str, maps: Any, images: Any) -> tuple[float, float] | None:
    """Where the cells of a layer's map, or of the "last" stage's, lie in an image."""
    if not isinstance(model, ResNet | VGG):
        return None
    fields = receptive_fields(model)
    # Layers without a field of their own, such as a batch norm, have a neighbour's with as many cells.
    stride = images.shape[1] / maps.shape[1]
    near = min(fields, key=lambda field: abs(math.log(field.stride / stride)))
    field = fields[-1] if name == "last" else next((each for each in fields if each.name == name), near)
    return field.start + (field.size - 1) / 2, float(field.stride)


@partial(jax.jit, static_argnums=0)
def _cam(model: nn.Module, variables: Any, preprocessing: Preprocessing, images: Any, wanted: jax.Array) -> Any:
    maps: Any = model.apply(variables, preprocessing(images), train=False, method="stages")
    last = list(maps.values())[-1]
    logits: Any = model.apply(variables, last, method="head")
    classes = jnp.where(wanted < 0, logits.argmax(-1).astype(jnp.int32), wanted)
    fc = variables["params"]["fc"]
    if fc["kernel"].shape[0] != last.shape[-1]:
        return last, classes, logits, jnp.inf
    weights = fc["kernel"].T[classes]
    products = jnp.einsum("bhwk,bk->bhw", last.astype(weights.dtype), weights, precision="highest")
    linear = jnp.dot(last.astype(weights.dtype).mean((1, 2)), fc["kernel"], precision="highest") + fc["bias"][None]
    return products, classes, logits, jnp.abs(linear - logits).max()


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
