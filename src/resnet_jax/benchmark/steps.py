"""The training step that is measured: the paper's update, of a batch that is made on the devices or stays the same."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax import rng
from resnet_jax.data.batch import Batch
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.data.resident import Augmentation, train_batch
from resnet_jax.data.small import Split
from resnet_jax.distributed.mesh import batch_sharded, replicated
from resnet_jax.training import optimizers
from resnet_jax.training.compiled import compile_steps
from resnet_jax.training.state import TrainState, abstract_state
from resnet_jax.training.step import train_step


def training_steps(model: nn.Module, make_batch: Any, mesh: Mesh) -> tuple[optax.GradientTransformation, Any]:
    """The paper's optimizer, and what `compile_steps` makes of its update; `make_batch` is as there."""
    optimizer = optimizers.sgd(optax.constant_schedule(0.01), momentum=0.9, weight_decay=1e-4)
    return optimizer, compile_steps(partial(train_step, model=model, optimizer=optimizer, mesh=mesh), make_batch, mesh)


def lower_step(model: nn.Module, mesh: Mesh, batch_size: int, image_size: int) -> tuple[TrainState, Any]:
    """Traces a step on a float batch, for shapes alone: the shapes of the state, and what `jax.jit(…).lower` gives."""
    shape = (image_size, image_size, 3)
    optimizer, steps = training_steps(model, lambda data, seed, step: data, mesh)
    state = abstract_state(model, optimizer, shape, mesh)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharded(mesh)),
        jax.eval_shape(lambda: synthetic(batch_size, shape)[0]),
    )
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(mesh))
    return state, steps.lower(state, batch, seed, 1)


def synthetic(batch_size: int, shape: Sequence[int]) -> tuple[Any, Any]:
    """A batch of noise that is made once, and how it becomes the batch of each step."""
    images = jax.random.normal(rng.stream(0, "images"), (batch_size, *shape))
    return Batch(images, jnp.arange(batch_size) % 10, jnp.ones(batch_size)), lambda data, seed, step: data


def on_device(batch_size: int, shape: Sequence[int]) -> tuple[Any, Any]:
    """Four batches of noise as uint8 images, and how training makes the batch of a step of them."""
    count = 4 * batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    split = Split(images, np.arange(count, dtype=np.int32) % 10)
    data = split, Preprocessing(per_pixel_mean(images))  # pyright: ignore[reportArgumentType]

    def make_batch(data: Any, seed: jax.Array, step: jax.Array) -> Batch:
        split, preprocessing = data
        return train_batch(split, preprocessing, Augmentation(4, True), seed, step, batch_size)

    return data, make_batch


INPUTS = {"device": on_device, "synthetic": synthetic}


def program_bytes(compiled: Any) -> int | None:
    """What a program holds on one device, arguments, results and temporaries; None where the compiler does not tell."""
    if (memory := compiled.memory_analysis()) is None:
        return None
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return arguments + memory.temp_size_in_bytes
