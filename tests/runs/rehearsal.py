"""Whole trainings that cost next to nothing: everything of a run is real but its network and its images.

The loop, its signals, checkpoints on the disk, the log, the compiled step of photographs, the optimiser and its
schedule are those of `resnet-jax train`, with every number of the packaged config. The network has two parameters and
says what its images say, and these are one pixel each, right or wrong by a curve that was made up.
"""

import dataclasses
import os
import signal
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.images import NAMES
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, put_everywhere
from resnet_jax.runs import build
from resnet_jax.runs.checkpoints import CheckpointMetadata
from resnet_jax.runs.task import Task
from resnet_jax.training.compiled import compile_stream_step
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
        return jnp.concatenate([~wrong, wrong], 1) * 4.0 + jnp.tanh(kernel)[None]


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

    def steps(self):
        """Makes `(state, count) -> (state, metrics, rates)`: so many real steps in one dispatch."""
        config = self.config
        step = compile_stream_step(
            Network(),
            self.optimizer,
            self.mesh,
            noise=0.0,
            mirrored=False,
            grad_accum_steps=config.train.grad_accum_steps,
            skip_nonfinite=config.train.max_skipped_steps > 0,
        )
        wrong, bad = jnp.asarray(self.wrong), np.zeros(len(self.wrong), bool)
        bad[list(self.bad)] = True
        bad, places = jnp.asarray(bad), jnp.arange(config.train.batch_size)
        seed, preprocessing = jnp.uint32(config.seed), Preprocessing(jnp.zeros((1, 1, 3)), jnp.ones((1, 1, 3)))

        def one(state, _):
            pixels = jnp.where(places < wrong[state.step], 255, 0).astype(jnp.uint8)
            images = jnp.broadcast_to(pixels[:, None, None, None], (len(places), 1, 1, 3))
            # The cross-entropy of a class that there is not is no number.
            labels = jnp.where(bad[state.step], 2, jnp.zeros_like(places))
            state, *found = step(state, images, labels, preprocessing, seed)
            return state, found

        @partial(jax.jit, static_argnums=1, donate_argnums=0)
        def run(state, count):
            state, (metrics, rates) = jax.lax.scan(one, state, None, length=count)
            return state, metrics, rates

        return run

    def maker(self, events):
        """What `loop.train` makes its task with.

        Args:
          events: (iteration, "signal") for a SIGTERM while it is trained, or (iteration, "kill") for an end without a
            word; each happens once and is removed.
        """
        run, (train_images, scored_images) = _compiled(self), self.sizes
        images = (1, 1, 3)
        mesh, optimizer = self.mesh, self.optimizer

        @cache
        def program(count):
            return run.lower(abstract_state(Network(), optimizer, images, mesh), count).compile()

        def advance(state, count, stop):
            first = int(state.step)
            due = [event for event in events if first < event[0] <= first + count]
            if due:
                events.remove(due[0])
                if due[0][1] == "kill":
                    raise KilledError
                if self.streamed:
                    count = due[0][0] - first
            made = jax.block_until_ready(program(count)(state))
            if due:
                os.kill(os.getpid(), signal.SIGTERM)
            stop()
            return made

        def score(state, split, stop):
            del split, stop
            step = int(state.step)
            errors = float(np.rint(self.wrong[step - 1] / self.config.train.batch_size * scored_images))
            # A loss that tells which state was scored.
            count = np.float32(scored_images)
            return {"loss": Mean(np.float32(step), count), "error": Mean(np.float32(errors), count)}

        split = "validation" if self.streamed else "test"
        return lambda config, log, saved: Task(
            model=Network(),  # pyright: ignore[reportArgumentType]
            optimizer=optimizer,
            metadata=CheckpointMetadata(("right", "wrong"), images, train_images),
            preprocessing=put_everywhere(mesh, Preprocessing(jnp.zeros((1, 1, 3)))),
            mesh=mesh,
            program=program,
            advance=advance,
            score=score,
            batch_indices=lambda step: np.arange(config.train.batch_size) + step,
            watched=split,
            final=split,
        )


_made = {}


def _compiled(stand):
    """`stand.steps()`, once for all the lives of a run."""
    if _made.get("of") is not stand:
        _made.update(of=stand, steps=stand.steps())
    return _made["steps"]
