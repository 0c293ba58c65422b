"""From a trained network to one of other classes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from resnet_jax import rng
from resnet_jax.evaluation.classifier import Classifier


def transfer(classifier: Classifier, class_names: Sequence[str], seed: int = 0) -> Classifier:
    """The network with a new head, for classes of one's own: everything below keeps its weights and statistics.

    Args:
      classifier: a trained network, whose last layer is "fc".
      class_names: in the order of the new logits.
      seed: of the head's kernel, which is drawn as that of a new network; its bias is zero.

    Example:
      >>> import resnet_jax as rj
      >>> classifier = rj.load_torch("resnet50.safetensors")  # doctest: +SKIP
      >>> rj.transfer(classifier, ["cat", "dog"]).model.num_classes  # doctest: +SKIP
      2
    """
    model = classifier.model.clone(num_classes=len(class_names))  # pyright: ignore[reportCallIssue]
    drawn = jax.jit(lambda key: model.init(key, jnp.zeros((1, *classifier.image_shape)), train=False)["params"]["fc"])
    head = drawn(rng.stream(seed, "head"))
    variables = {**classifier.variables, "params": {**classifier.variables["params"], "fc": head}}
    return classifier.replace(model=model, variables=variables, class_names=tuple(class_names))
