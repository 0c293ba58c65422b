"""Arrays of a wrong rank, shape or dtype are refused by name, and JAX promotes no dtype by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from resnet_jax import models
from resnet_jax.data.augment import pad_crop_mirror
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.training.losses import cross_entropy
from resnet_jax.training.metrics import top_k_errors

MODEL, KEY = models.create("cifar_resnet8"), jax.random.key(0)
WRONG = {
    "images of a network": ("images", lambda: MODEL.init(KEY, jnp.zeros((8, 8, 3)), train=False)),
    "images to augment": ("images", lambda: pad_crop_mirror(KEY, jnp.zeros((8, 8, 3)), 1, True)),
    "images to pre-process": ("images", lambda: Preprocessing(jnp.zeros((1, 1, 3)))(jnp.zeros((8, 8, 3)))),
    "images to average": ("images", lambda: per_pixel_mean(np.zeros((2, 8, 8, 3), np.float32))),
    "logits": ("logits", lambda: cross_entropy(jnp.zeros(4), Batch(jnp.zeros((4, 8, 8, 3)), jnp.arange(4)))),
    "labels": ("labels", lambda: top_k_errors(jnp.zeros((4, 10)), jnp.zeros((3,), jnp.int32), 1)),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_array_is_refused_by_name(case):
    name, call = WRONG[case]
    with pytest.raises(TypeCheckError, match=f"parameter '{name}'"):
        call()


def test_no_dtype_is_promoted():
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(2, jnp.int32) * jnp.ones(2)
