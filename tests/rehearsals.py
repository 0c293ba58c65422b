"""Each packaged config over its whole length, with its own numbers, and what must come out.

That was worked out by hand from the paper and the configs' docstrings, and stands here as numbers.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest

from resnet_jax.configs import parsing
from resnet_jax.errors import Preempted
from resnet_jax.runs import loop
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.training.state import abstract_state, create_state
from small_run import KilledError, lines_of, result_of, saved_steps
from stand_ins import SHAPE, SIZES, Network, Stand, wrong_images


def falling(iterations):
    """From 90 % to 10 %."""
    return lambda step: 0.9 - 0.8 * step / iterations


def below_80_percent_from_300(step):
    """The paper: "the training error is below 80 % (about 400 iterations)"; a window of 100 iterations tells."""
    return np.where(step < 300, 0.9, 0.79 - 0.7 * step / 64_000)


def two_plateaus(step):
    """Falls for 20 epochs of 5,004 iterations, not for 10, falls for 20, and never again."""
    epoch = step // 5_004
    return 0.9 - 0.02 * np.minimum(epoch, 19) - 0.01 * np.clip(epoch - 29, 0, 20)


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What a config must do.

    Attributes:
      overrides: of the packaged config.
      iterations: in all.
      epoch: iterations in an epoch, rounded down.
      rate: of the first iteration after the ramp, if there is one.
      changes: (updates made before, the rate of the next one) wherever the rate changes.
      ramp: iterations over which the rate rises linearly first.
      ramp_from: what it rises from. None: the first iteration has 1/ramp of it, the last one of the ramp all of it.
      curve: iteration -> the made-up training error.
      bad: iterations, from 0 on, whose loss is no number.
    """

    overrides: tuple[str, ...]
    iterations: int
    epoch: int
    rate: float
    changes: tuple[tuple[int, float], ...]
    ramp: int = 0
    ramp_from: float | None = None
    curve: Callable | None = None
    bad: tuple[int, ...] = ()

    def rates(self):
        """Of each update."""
        rates = np.full(self.iterations, self.rate)
        for made, rate in self.changes:
            rates[made:] = rate
        if self.ramp_from is None:
            rates[: self.ramp] *= (np.arange(self.ramp) + 1) / max(self.ramp, 1)
        else:
            rates[: self.ramp] = np.linspace(self.ramp_from, self.rate, self.ramp, endpoint=False)
        return rates


PAPER_CIFAR = ((32_000, 0.01), (48_000, 0.001))
WARMED_UP = ((400, 0.1), *PAPER_CIFAR)

REHEARSALS = {
    "imagenet": Rehearsal((), 600_000, 5_004, 0.1, ((150_000, 0.01), (300_000, 0.001))),
    # Ten epochs without a fall end with epochs 30, 60, 70, 80; the last update of those has the new rate already. A
    # ten-thousandth is the least.
    "imagenet, plateau": Rehearsal(
        ("optimizer.schedule=plateau",),
        600_000,
        5_004,
        0.1,
        ((150_119, 0.01), (300_239, 0.001), (350_279, 1e-4), (400_319, 1e-5)),
        curve=two_plateaus,
    ),
    "imagenet_90ep": Rehearsal((), 450_410, 5_004, 0.1, ((150_136, 0.01), (300_273, 0.001))),
    "imagenet_90ep:large_batch": Rehearsal(
        (), 14_075, 156, 3.2, ((4_691, 0.32), (9_383, 0.032), (12_511, 0.0032)), ramp=781, ramp_from=0.1
    ),
    "cifar10": Rehearsal((), 64_000, 390, 0.1, PAPER_CIFAR),
    "cifar10, 110 layers": Rehearsal(
        ("model.depth=110",), 64_000, 390, 0.01, WARMED_UP, curve=below_80_percent_from_300
    ),
    "cifar10, 1202 layers": Rehearsal(
        ("model.depth=1202",), 64_000, 390, 0.01, WARMED_UP, curve=below_80_percent_from_300
    ),
    "cifar10, bad steps": Rehearsal(
        ("train.max_skipped_steps=3",),
        64_000,
        390,
        0.1,
        PAPER_CIFAR,
        bad=(100, 31_997, 31_998, 31_999, 32_001, 32_100, 47_999, 48_000, 63_999),
    ),
    "cifar100": Rehearsal((), 64_000, 390, 0.1, PAPER_CIFAR),
    "folder": Rehearsal((), 3_000, 46, 0.05, ((1_500, 0.005), (2_250, 0.0005)), ramp=100),
    "digits": Rehearsal((), 1_200, 22, 0.1, ((600, 0.01), (900, 0.001))),
}


def stand_of(name):
    wanted = REHEARSALS[name]
    config = parsing.load(name.partition(",")[0], [*wanted.overrides, "mesh.data=1"])
    curve = wanted.curve or falling(wanted.iterations)
    return Stand(config, wrong_images(config, curve, wanted.iterations), wanted.bad)


def events_of(stand, wanted):
    """A signal in the first epoch, a kill after the first checkpoint; kills and signals around the first and the last
    change of the rate.
    """
    every, saved = stand.config.train.log_every, stand.config.train.checkpoint_every
    events = [(min(137, wanted.epoch // 2), "signal"), (saved + every + 1, "kill")]
    for change in {wanted.changes[0][0], wanted.changes[-1][0]}:
        before = change - 1 if stand.streamed else change - every
        events += [(before - every, "kill"), (before, "signal"), (change, "signal"), (change + 1, "signal")]
    possible, reached = [], 0
    for at, kind in sorted(events):
        if at > reached:
            possible.append((at, kind))
            reached = max(reached, end_of(stand, at) if kind == "signal" else 0)
    return possible


def end_of(stand, at):
    """Where a signal at this iteration stops a run: where its data lie on the devices, at the end of the dispatch."""
    every = stand.config.train.log_every
    return at if stand.streamed else -(-at // every) * every


def saves_of(config, stops, until):
    """The iterations that are saved by then."""
    multiples = range(config.train.checkpoint_every, until + 1, config.train.checkpoint_every)
    return sorted({*multiples, *(stop for stop in stops if stop <= until)})


def live(stand, wanted, directory):
    """Trains, and trains again after each event; returns where signals stopped it."""
    config, events, stops = stand.config, events_of(stand, wanted), []
    every = config.train.log_every
    while events:
        at, kind = events[0]
        if kind == "signal":
            end = end_of(stand, at)
            with pytest.raises(Preempted, match=f"the state of iteration {end} is saved"):
                loop.train(config, directory, make_task=stand.task, open_input=stand.opener(events))
            stops.append(end)
            reached = end
        else:
            with pytest.raises(KilledError):
                loop.train(config, directory, make_task=stand.task, open_input=stand.opener(events))
            reached = (at - 1) // every * every
        assert saved_steps(directory) == saves_of(config, stops, reached)[-3:], (at, kind)
        assert lines_of(directory)[-1]["step"] == max([reached, *stops]), (at, kind)
    loop.train(config, directory, make_task=stand.task, open_input=stand.opener(events))
    return stops


def straight(stand):
    """The state and the rates of the same steps in one dispatch: no loop, no disk, no end but the last."""
    config, mesh = stand.config, stand.mesh
    images = stand.opener([])(config, mesh, print, None)
    task = stand.task(config, images.metadata, images.train_images, mesh)
    first = create_state(task.model, task.optimizer, config.seed, SHAPE, mesh)
    state, metrics = images.compile(task).run_steps(first, config.train.iterations, lambda: False)
    return state, np.asarray(metrics["learning_rate"].total)


def rehearse(name, directory):
    """Trains as the config says, through signals and kills, and compares with what was worked out by hand."""
    stand, wanted = stand_of(name), REHEARSALS[name]
    config, total = stand.config, wanted.iterations
    fields = config.train
    assert fields.iterations == total
    assert stand.sizes[0] // fields.batch_size == wanted.epoch

    expected, rates = straight(stand)
    np.testing.assert_allclose(rates, wanted.rates(), rtol=1e-5)

    stops = live(stand, wanted, directory)
    assert saved_steps(directory) == sorted({*saves_of(config, stops, total), total})[-3:]
    with Checkpoints(directory, write=False) as checkpoints:
        saved = checkpoints.restore(
            lambda metadata: abstract_state(Network(), stand.optimizer, SHAPE, stand.mesh), print
        ).state
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(saved), jax.device_get(expected))

    lines = lines_of(directory)
    steps = [line["step"] for line in lines]
    assert steps == sorted({*range(fields.log_every, total + 1, fields.log_every), *stops, total})
    np.testing.assert_allclose(
        [line["learning_rate"] for line in lines], wanted.rates()[np.array(steps) - 1], rtol=1e-5
    )
    good = ~np.isin(np.arange(total), wanted.bad)
    for begin, line in zip([0, *steps], lines, strict=False):
        shown = slice(begin, line["step"])
        assert line.get("train_skipped", 0) == (~good[shown]).sum()
        if good[shown].any():
            error = stand.wrong[shown][good[shown]].mean() / fields.batch_size
            assert line["train_error"] == pytest.approx(error, rel=1e-5)

    split, images = "validation" if stand.streamed else "test", SIZES[config.dataset.name][1]
    scored = {line["step"]: line for line in lines if f"{split}_error" in line}
    assert list(scored) == sorted({*range(fields.eval_every, total + 1, fields.eval_every), total})
    for step, line in scored.items():
        assert line[f"{split}_loss"] * images == pytest.approx(step)
    result = result_of(directory)
    assert (result["step"], result["split"], result[f"{split}_images"]) == (total, split, images)
    assert result[f"{split}_error"] == lines[-1][f"{split}_error"]
    assert result.get("train_error") == lines[-1].get("train_error")
