"""What a step minimises: functions of a model's outputs and the batch, and the door for a loss of one's own."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from resnet_jax.data.batch import Batch
from resnet_jax.training.metrics import top_k_errors

# (outputs, batch) -> (summed loss, {name: (total, count)}). The outputs are the model's, in float32 at least, of the
# images of one device; the loss is a sum over these, and a step divides the sum over all of them by their number. What
# it should be divided by instead stands under "loss", as (summed loss, count).
Loss: TypeAlias = Callable[[Any, Any], tuple[jax.Array, dict[str, tuple[Any, Any]]]]


def cross_entropy(
    logits: jax.Array, batch: Batch, *, top_k: Sequence[int] = ()
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """Summed softmax cross-entropy; its metric is "error", of the examples whose largest logit is another class's.

    Args:
      logits: (batch, classes) float32.
      batch: its labels are classes (batch,) int32; an example of weight 0 counts nowhere.
      top_k: adds "top5_error" for 5: of the examples whose class is not among the 5 largest logits.

    Example:
      >>> import functools, jax.numpy as jnp
      >>> loss, metrics = cross_entropy(jnp.zeros((2, 10)), Batch(jnp.zeros((2, 8, 8, 3)), jnp.array([0, 1])))
      >>> print(loss, metrics["error"])
      4.6051702 (Array(1., dtype=float32), Array(2., dtype=float32))
    """
    weights, count = jnp.ones(logits.shape[0]) if batch.weights is None else batch.weights, examples(batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    metrics = {"error": ((top_k_errors(logits, batch.labels, 1) * weights).sum(), count)}
    for k in top_k:
        metrics[f"top{k}_error"] = ((top_k_errors(logits, batch.labels, k) * weights).sum(), count)
    return (losses * weights).sum(), metrics


def examples(batch: Any) -> jax.Array:
    """The number of examples in a batch, a float scalar: the sum of its weights where it has some."""
    weights = getattr(batch, "weights", None)
    return jnp.asarray(batch.images.shape[0], float) if weights is None else weights.sum()
