"""Networks without some of their blocks, or with blocks in another order (Veit et al., 1605.06431)."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from resnet_jax.analysis.deepening import block_of, checked, passing_on, put_block
from resnet_jax.data.small import Split
from resnet_jax.errors import InputError
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.evaluation.outcomes import evaluate
from resnet_jax.models import ResNet, stack, unstack


def block_names(model: ResNet) -> list[str]:
    """The blocks of a network, in the order of execution.

    >>> from resnet_jax import models
    >>> block_names(models.create("cifar_resnet14"))[:3]
    ['stage1/block1', 'stage1/block2', 'stage2/block1']
    """
    return [f"stage{i}/block{j}" for i, size in enumerate(model.stage_sizes, 1) for j in range(1, size + 1)]


def remove_blocks(classifier: Classifier, names: str | Sequence[str]) -> Classifier:
    """The network with each of these blocks replaced by its shortcut; in a plain network, by one of option A.

    The size of maps so stays what it was; where it does not change, what enters the block is what leaves it. Batch
    norms go on by their running statistics, and the network is one to evaluate: it is not trained again.

    Args:
      classifier: a `ResNet`.
      names: as `block_names` has them, one or several.

    Raises:
      InputError: there is no such block, or it is a plain bottleneck, which has too few channels to pass anything on.

    Example:
      >>> import jax, numpy as np, resnet_jax as rj
      >>> model, shape = rj.create("cifar_plain14"), (8, 8, 1)
      >>> variables = rj.models.init(model, shape, jax.random.key(0))
      >>> norm = rj.data.Preprocessing.of_channels([0.5], [0.25])
      >>> classifier = rj.Classifier(model, variables, norm, tuple("0123456789"), shape)
      >>> remove_blocks(classifier, "stage2/block2")(np.zeros((1, 8, 8, 1), np.uint8)).shape
      (1, 10)
    """
    model = checked(classifier, "the names of blocks")
    names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    _check_names(model, names)
    variables = unstack(jax.device_get(classifier.variables))
    for name in names:
        put_block(variables, name, passing_on(model, block_of(variables, name)))
    return classifier.replace(variables=stack(variables))


def swap_blocks(classifier: Classifier, first: str, second: str) -> Classifier:
    """The network with two blocks in each other's place.

    Args:
      classifier: a `ResNet`.
      first, second: as `block_names` has them; blocks whose variables have the same shapes, as within a stage but for
        its first block.

    Raises:
      InputError: there are no such blocks, or they do not fit into each other's place.
    """
    model = checked(classifier, "the names of two blocks")
    _check_names(model, (first, second))
    variables = unstack(jax.device_get(classifier.variables))
    one, other = block_of(variables, first), block_of(variables, second)
    if jax.tree.map(np.shape, one) != jax.tree.map(np.shape, other):
        raise InputError(f"{first} and {second} cannot be swapped: their variables have other shapes")
    put_block(variables, first, other)
    put_block(variables, second, one)
    return classifier.replace(variables=stack(variables))


def lesion_errors(classifier: Classifier, split: Split, batch_size: int = 256) -> dict[str, float]:
    """The error on a split with each block removed in turn, by its name; see `remove_blocks`.

    Example:
      >>> import resnet_jax as rj
      >>> classifier = rj.load("runs/digits")  # doctest: +SKIP
      >>> lesion_errors(classifier, rj.data.load("digits").test)  # doctest: +SKIP
      {'stage1/block1': 0.81, 'stage1/block2': 0.39, …}
    """
    names = block_names(checked(classifier, "a split"))
    return {name: evaluate(remove_blocks(classifier, name), split, batch_size=batch_size).error for name in names}


def _check_names(model: ResNet, names: Sequence[str]) -> None:
    known = block_names(model)
    for name in names:
        if name not in known:
            raise InputError(f"there is no block {name!r}: they are {known[0]} to {known[-1]}")
