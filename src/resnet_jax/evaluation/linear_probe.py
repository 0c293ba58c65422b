"""Features that a network computes once of every image, and a head that is fitted on them."""

import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.encoded import ImageSource
from resnet_jax.data.small import Split
from resnet_jax.errors import InputError, Progress, no_progress, warn
from resnet_jax.evaluation.classifier import Classifier, with_head, with_outputs
from resnet_jax.evaluation.protocols import Protocol
from resnet_jax.evaluation.scoring import computed, shown
from resnet_jax.models import ResNet

# L-BFGS on standardised features needs some dozens.
_MOST_ITERATIONS = 1000


class Features(NamedTuple):
    """What the head of a network is given of each image that is whole.

    Attributes:
      features: the averages of the last feature maps, (images, channels) float32.
      labels: classes, (images,) int32.
      names: of the images; of arrays their indices.
    """

    features: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __repr__(self) -> str:
        return f"Features({' x '.join(map(str, self.features.shape))}: images x channels)"


def features(
    classifier: Classifier,
    split: Split | ImageSource,
    batch_size: int = 64,
    log: Callable[[str], None] = warn,
    progress: Progress = no_progress,
) -> Features:
    """What the head of a network is given of each image of a split, in its order; `fit_head` makes a head of that.

    The network sees each image once, as the protocol "center" of `evaluate` shows it.

    Args:
      classifier: a trained network.
      split: uint8 arrays as large as the network's images, which are shown as they are; or image files of any size.
      batch_size: images at a time; the result does not depend on it, but for rounding.
      log: is given a line about each damaged image, which is left out.
      progress: shows how many images are done.

    Raises:
      InputError: images that do not fit to the network, or none that is whole; or the network is no `ResNet`.

    Example:
      >>> import resnet_jax as rj
      >>> digits, model = rj.data.load("digits"), rj.create("cifar_resnet8")
      >>> variables = rj.models.init(model, (8, 8, 1), jax.random.key(0))
      >>> mean = rj.data.Preprocessing(rj.data.per_pixel_mean(digits.train.images))
      >>> drawn = rj.Classifier(model, variables, mean, digits.class_names, (8, 8, 1))
      >>> found = rj.features(drawn, digits.train)
      >>> found
      Features(1437 x 64: images x channels)
      >>> rj.evaluate(rj.fit_head(drawn, found, digits.class_names), digits.test).error < 0.2
      True
    """
    images, protocol = shown(split, [classifier], Protocol("center"), batch_size)
    if not isinstance(classifier.model, ResNet):
        raise InputError(f"a {type(classifier.model).__name__} has no features known here: only ResNets have")
    found: dict[int, tuple[np.ndarray, int, str]] = {}
    rows_of = computed(_features, [classifier], images, protocol, batch_size)
    for image, rows in progress(rows_of, len(images), "images"):
        if rows:
            found[image.index] = rows[0], image.label, image.name
        else:
            log(f"{image.name} is damaged and left out: {image.damage}")
    if not found:
        raise InputError(f"all of the {len(images)} images are damaged: is the data set whole?")
    rows, labels, names = zip(*(found[index] for index in sorted(found)), strict=True)
    return Features(np.stack(rows), np.array(labels, np.int32), list(names))


@partial(jax.jit, static_argnums=0)
def _features(protocol: Protocol, classifier: Classifier, images: jax.Array) -> Any:
    del protocol  # which has a single view of each image
    pixels = classifier.preprocessing(images)
    computed: Any = classifier.model.apply(classifier.variables, pixels, train=False, method="features")
    return computed.astype(jnp.float32)


def fit_head(
    classifier: Classifier,
    features: Features,
    class_names: Sequence[str],
    penalty: float = 1.0,
    log: Callable[[str], None] = warn,
) -> Classifier:
    """The network with a new head: multinomial logistic regression on features, by scikit-learn.

    Minimises the summed cross-entropy of the images + penalty / 2 |kernel|^2, for features that have been standardised
    to mean 0 and variance 1 (one that is constant stays 0), without a penalty on the bias. Being convex, it has no
    seed. The means and deviations become a part of the head, whose logits are features @ kernel + bias.

    Args:
      classifier: the network that computed the features; all but its head stays, and nothing of it is frozen.
      features: of `features`; labels are indices of `class_names`, and each class has an image.
      class_names: in the order of the new logits.
      penalty: weight of the squared norm, greater than 0. It counts as one image of loss, so that it matters less the
        more images there are.
      log: is given a line where the minimum was not reached.

    Raises:
      InputError: the features, the labels and the names do not fit together or to the network.

    Example: see `features`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    network = with_outputs(classifier, class_names)
    given, labels = np.asarray(features.features, np.float64), np.asarray(features.labels)
    channels, classes = len(classifier.variables["params"]["fc"]["kernel"]), len(class_names)
    if given.shape != (len(labels), channels):
        raise InputError(
            f"the features are {given.shape}, but for {len(labels)} labels and this network they must be "
            f"({len(labels)}, {channels}): compute them with it"
        )
    if not np.isfinite(given).all():
        raise InputError("the features are not all finite: the network's weights or their model.dtype overflow")
    if not isinstance(penalty, numbers.Real) or not 0 < penalty < np.inf:
        raise InputError(f"penalty is {penalty!r}, but it must be a number greater than 0")
    if classes < 2 or sorted(set(labels.tolist())) != list(range(classes)):
        missing = [name for i, name in enumerate(class_names) if i not in labels]
        raise InputError(
            f"the labels are of {len(set(labels.tolist()))} classes, but class_names has {classes}"
            f"{f', and there is no image of {missing[0]}' if missing else ''}: give at least two, with an image of each"
        )
    scaler = StandardScaler().fit(given)
    # Of two classes scikit-learn fits the difference of the logits, whose squared norm is twice that of the kernel.
    regression = LogisticRegression(C=(2 if classes == 2 else 1) / penalty, tol=1e-6, max_iter=_MOST_ITERATIONS)
    regression.fit(scaler.transform(given), labels)
    if max(regression.n_iter_) >= _MOST_ITERATIONS:
        log(f"the head is not fitted to the end after {_MOST_ITERATIONS} iterations: a larger penalty ends sooner")
    kernel, bias = regression.coef_.T, regression.intercept_
    if classes == 2:
        kernel, bias = (np.concatenate([-each / 2, each / 2], -1) for each in (kernel, bias))
    kernel = kernel / np.asarray(scaler.scale_)[:, None]
    bias = bias - np.asarray(scaler.mean_) @ kernel
    return with_head(
        classifier,
        network,
        class_names,
        jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), {"kernel": kernel, "bias": bias}),
    )
