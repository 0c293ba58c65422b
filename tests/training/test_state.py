"""What of a state may hold infinities, for the optimisers that people use; and checkpoints of such states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.configs import base
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.errors import DivergedError
from resnet_jax.runs import build
from resnet_jax.runs.checkpoints import CheckpointMetadata, Checkpoints
from resnet_jax.runs.fingerprints import all_finite
from resnet_jax.training.state import TrainState, must_be_finite

METADATA = CheckpointMetadata(("cat", "dog"), (2, 2, 3), 7)


def plateau():
    config = base.get_config()
    config.optimizer.schedule = "plateau"
    return build.optimizer(config, train_images=50_000)


OPTIMIZERS = {
    "plateau": plateau,
    "plateau behind adam": lambda: optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "lbfgs": optax.lbfgs,
    "keys": lambda: optax.noisy_sgd(0.1, key=jax.random.key(5)),
    "flags": lambda: optax.chain(optax.zero_nans(), optax.sgd(0.1, momentum=0.9)),
    "bfloat16": lambda: optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.bfloat16),
    "masked": lambda: optax.masked(optax.adam(0.1), {"conv": {"kernel": True}, "bn": {"scale": False}}),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "a sentinel of several numbers": lambda: optax.GradientTransformation(
        lambda params: {"best": jnp.array([jnp.inf, jnp.nan, -1])}, lambda updates, state, params=None: (updates, state)
    ),
}


def state_of(optimizer):
    params = {"conv": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "bn": {"scale": jnp.ones(4)}}
    stats = {"bn": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))
    return jax.device_put(state, replicated(make_mesh(1)))


def abstract_of(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def bits(state):
    """Keys as numbers, and NaN equal to itself."""
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()
        for leaf in jax.tree.leaves(state)
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sentinels_are_saved_and_restored_to_the_bit(name, tmp_path):
    state = state_of(OPTIMIZERS[name]())
    messages = []
    with Checkpoints(tmp_path, write=True) as checkpoints:
        checkpoints.save(state, Preprocessing(jnp.zeros((2, 2, 3))), METADATA, step=0)
        checkpoints.wait()
        restored = checkpoints.restore(lambda metadata: abstract_of(state), messages.append)
    assert messages == []
    assert bits(restored.state) == bits(state)
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)


def damaged(state, name, value):
    """One number of the parameters, of the running statistics or of the momentum."""
    if name == "momentum":
        ruin = lambda path, leaf: leaf.at[1].set(value) if "trace" in jax.tree_util.keystr(path) else leaf  # noqa: E731
        return state.replace(opt_state=jax.tree_util.tree_map_with_path(ruin, state.opt_state))
    return state.replace(**{name: jax.tree.map(lambda leaf: leaf.at[1].set(value), getattr(state, name))})


@pytest.mark.parametrize("value", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("name", ["params", "batch_stats", "momentum"])
def test_what_must_be_finite_is_found_beside_a_sentinel(name, value):
    state = state_of(plateau())
    assert all_finite(must_be_finite(state))
    assert not all_finite(must_be_finite(damaged(state, name, value)))


def test_a_state_that_is_damaged_is_not_saved(tmp_path):
    state = damaged(state_of(plateau()), "momentum", jnp.nan)
    with (
        Checkpoints(tmp_path, write=True) as checkpoints,
        pytest.raises(DivergedError, match="of iteration 3 holds numbers that are not finite"),
    ):
        checkpoints.save(state, Preprocessing(jnp.zeros((2, 2, 3))), METADATA, step=3)
