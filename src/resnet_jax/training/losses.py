"""What a step minimises: functions of a model's outputs and the batch, and the door for a loss of one's own."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from resnet_jax.data.batch import Batch
from resnet_jax.training.metrics import top_k_errors

# (outputs, batch) -> (summed loss, {name: (total, count)}). The outputs are the model's, in float32 at least: in a
# training step of the images of one microbatch of one device, in evaluation of a whole batch. The loss is a sum over
# these images, of which those of weight 0 count nowhere; a step divides the sum over all of them by their number, or by
# the count that the loss names itself: {"loss": (summed loss, count)}. "error" is the metric that plateaus, warm-ups
# and the reports of runs go by, where there is one.
Loss: TypeAlias = Callable[[Any, Any], tuple[jax.Array, dict[str, tuple[Any, Any]]]]


def cross_entropy(
    logits: Float[Array, "batch classes"], batch: Batch, *, top_k: Sequence[int] = ()
) -> tuple[Float[Array, ""], dict[str, tuple[Float[Array, ""], Float[Array, ""]]]]:
    """Summed softmax cross-entropy, and error counts: "error" by the largest logit, "top5_error" where 5 is in `top_k`.

    An example of weight 0 counts nowhere.

    Example:
      >>> import jax.numpy as jnp
      >>> loss, metrics = cross_entropy(jnp.zeros((2, 10)), Batch(jnp.zeros((2, 8, 8, 3)), jnp.array([0, 1])))
      >>> print(loss, metrics["error"])
      4.6051702 (Array(1., dtype=float32), Array(2., dtype=float32))
    """
    count, labels = examples(batch), batch.labels
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    weights = jnp.ones_like(losses) if batch.weights is None else jnp.asarray(batch.weights, losses.dtype)
    metrics = {}
    for name, k in {"error": 1, **{f"top{k}_error": k for k in top_k}}.items():
        metrics[name] = (top_k_errors(logits, labels, k).astype(weights.dtype) * weights).sum(), count
    return (losses * weights).sum(), metrics


def examples(batch: Any) -> Float[Array, ""]:
    """The number of examples in a batch, a float scalar: the sum of its weights where it has some."""
    weights = getattr(batch, "weights", None)
    return jnp.asarray(batch.images.shape[0], float) if weights is None else weights.sum()
