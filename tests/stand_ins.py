"""Whole trainings that cost next to nothing: everything of a run is real but its network and its images.

The loop, its signals, checkpoints on the disk, the log, the compiled step of photographs, the optimiser and its
schedule are those of `resnet-jax train`, with every number of the packaged config. The network has two parameters and
says what its images say, and these are one pixel each, right or wrong by a curve that was made up.
"""

import dataclasses
import os
import signal
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.batch import Batch
from resnet_jax.data.images import NAMES
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, put_everywhere
from resnet_jax.runs import build
from resnet_jax.runs.inputs import Program
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.runs.tasks import make_task
from resnet_jax.training.compiled import compile_steps
from resnet_jax.training.metrics import Mean
from resnet_jax.training.state import abstract_state
from small_run import KilledError

# Training images, and images to score.
SIZES = {
    "imagenet2012": (1_281_167, 50_000),
    "folder": (3_000, 600),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "digits": (1_437, 360),
}


class Network(nn.Module):
    """Logits of two classes: what the pixel says, and two parameters that never outweigh it."""

    axis_name: Any = None
    bn_group_size: Any = None

    @nn.compact
    def __call__(self, images, train):
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        if train:
            seen.value += 1
        kernel = self.param("kernel", nn.initializers.normal(0.1), (2,))
        wrong = images[:, 0, 0, :1] > 128
        return jnp.concatenate([~wrong, wrong], 1).astype(jnp.float32) * 4 + jnp.tanh(kernel)[None]


def wrong_images(config, curve, iterations):
    """How many images of each batch are wrong, by the curve: (iterations,) int32."""
    errors = curve(np.arange(iterations))
    return np.rint(errors * config.train.batch_size).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Stand:
    """A config with stand-ins for its network and its images.

    Attributes:
      config: with all its own numbers.
      wrong: images of each iteration's batch that are classified wrongly.
      bad: iterations, from 0 on, whose loss is no number.
    """

    config: Any
    wrong: np.ndarray
    bad: tuple[int, ...] = ()

    @property
    def streamed(self):
        """Whether the real run could stop between any two steps, and not only between two dispatches."""
        return self.config.dataset.name in NAMES

    @property
    def sizes(self):
        return SIZES[self.config.dataset.name]

    @property
    def mesh(self):
        return make_mesh(1)

    @property
    def optimizer(self):
        return build.optimizer(self.config, self.sizes[0])

    def task(self, config, metadata, train_images, mesh):
        """What `loop.train` learns."""
        del metadata
        return make_task(config, Network(), train_images, mesh)

    def make_batch(self, wrong, seed, step):
        """Images of one pixel each, of which as many are wrong as the curve says."""
        del seed
        bad = np.zeros(len(self.wrong), bool)
        bad[list(self.bad)] = True
        ranks = jnp.arange(self.config.train.batch_size)
        pixels = jnp.where(ranks < wrong[step], 255.0, 0.0)
        images = jnp.broadcast_to(pixels[:, None, None, None], (len(ranks), *SHAPE))
        # The cross-entropy of a class that there is not is no number.
        labels = jnp.where(jnp.asarray(bad)[step], 2, jnp.zeros_like(ranks))
        return Batch(images, labels, jnp.ones(len(ranks)))

    def opener(self, events):
        """What `loop.train` opens its input with; see `StandInput`."""
        return lambda config, mesh, log, preprocessing: StandInput(self, mesh, events)


SHAPE = (1, 1, 3)


class StandInput:
    """The images of a `Stand`.

    Args:
      stand: says what they are.
      mesh: of the run.
      events: (iteration, "signal") for a SIGTERM while it is trained, or (iteration, "kill") for an end without a word;
        each happens once and is removed.
    """

    def __init__(self, stand, mesh, events):
        self.stand, self.mesh, self.events = stand, mesh, events
        self.train_images, self.scored_images = stand.sizes
        self.metadata = CheckpointMetadata(("right", "wrong"), SHAPE, self.train_images)
        self.preprocessing = put_everywhere(mesh, Preprocessing(jnp.zeros((1, 1, 3))))
        self.eval_split = self.test_split = "validation" if stand.streamed else "test"

    def compile(self, task):
        run, wrong = _compiled(self.stand, task, self.mesh), jnp.asarray(self.stand.wrong)
        seed = jnp.uint32(self.stand.config.seed)

        @cache
        def steps(count):
            return run.lower(abstract_state(task.model, task.optimizer, SHAPE, self.mesh), wrong, seed, count).compile()

        def run_steps(state, count, stop):
            first = int(state.step)
            due = [event for event in self.events if first < event[0] <= first + count]
            if due:
                self.events.remove(due[0])
                if due[0][1] == "kill":
                    raise KilledError
                if self.stand.streamed:
                    count = due[0][0] - first
            made = jax.block_until_ready(steps(count)(state, wrong, seed))
            if due:
                os.kill(os.getpid(), signal.SIGTERM)
            stop()
            return made

        def evaluate(state, split, stop):
            del split, stop
            step, scored = int(state.step), jnp.float32(self.scored_images)
            errors = float(np.rint(self.stand.wrong[step - 1] / self.stand.config.train.batch_size * scored))
            # A loss that tells which state was scored.
            return {"loss": Mean(jnp.float32(step), scored), "error": Mean(jnp.float32(errors), scored)}

        return Program(steps, run_steps, evaluate)

    def batch_indices(self, step):
        return np.arange(self.stand.config.train.batch_size) + step

    def close(self):
        pass


_made = {}


def _compiled(stand, task, mesh):
    """Many real steps in one dispatch, once for all the lives of a run."""
    if _made.get("of") is not stand:
        _made.update(of=stand, steps=compile_steps(task.train_step, stand.make_batch, mesh))
    return _made["steps"]
