"""How long a run is: iterations or epochs, what of its schedule is a share of them, and when it may become longer."""

import math
from pathlib import Path
from typing import NamedTuple

from resnet_jax.configs.base import Config
from resnet_jax.errors import InputError

# The fields of a config that a `Length` is made of.
FIELDS = ("train.iterations", "train.epochs", "optimizer.boundaries", "optimizer.warmup_steps")


class Length(NamedTuple):
    """The iterations of a run, those after which its rate drops, and those over which it rises first."""

    iterations: int
    drops: tuple[int, ...]
    warmup: int


def with_iterations(config: Config, train_images: int) -> Config:
    """The config with the iterations of `train.epochs`, rounded up, where it has some; the config itself where not."""
    if config.train.epochs is None:
        return config
    config = config.copy_and_resolve_references()
    # Rounded first: 1.1 epochs of 1,000 images are 11 batches of 100, and not the 11.000000000000002 of floats.
    batches = round(config.train.epochs * train_images / config.train.batch_size, 6)
    config.train.iterations = max(math.ceil(batches), 1)
    return config


def length(config: Config) -> Length:
    """Of a config, whose iterations are known; see `with_iterations`."""
    total, fields = config.train.iterations, config.optimizer
    drops = [each if isinstance(each, int) else int(each * total) for each in fields.boundaries]
    share = 0 < fields.warmup_steps < 1
    warmup = int(fields.warmup_steps * total if share else fields.warmup_steps)
    return Length(total, () if fields.schedule == "plateau" else tuple(drops), warmup)


def check(config: Config) -> None:
    """Refuses a linear warm-up that is as long as the run, or no whole number of iterations."""
    total, _, warmup = length(config)
    given = config.optimizer.warmup_steps
    if given >= 1 and given != int(given):
        raise InputError(
            f"config.optimizer.warmup_steps is {given:g}, but it must be whole iterations, or a share of the training "
            "below 1"
        )
    if warmup >= total:
        raise InputError(
            f"config.optimizer.warmup_steps={given:g} is as long as the training of {total} iterations, which would "
            "never have its learning rate: give fewer, or a share of the training such as 0.05"
        )


def unreached(config: Config) -> str | None:
    """A line about the drops of the rate that the run ends before, such as the paper's in a shortened run."""
    total, drops, _ = length(config)
    late = [drop for drop in drops if drop >= total]
    if not late:
        return None
    return f"the rate does not drop after iteration {_numbers(late)}: the run ends with iteration {total}"


def is_complete(done: int, theirs: Config, ours: Config) -> bool:
    """Whether `done` iterations are all that a config asks for of the run that `theirs` belongs to.

    The same epochs are the iterations of the run; what other epochs are, the data must tell.
    """
    if ours.train.epochs is not None:
        if ours.train.epochs != theirs.train.epochs:
            return False
        ours = ours.copy_and_resolve_references()
        ours.train.iterations = theirs.train.iterations
    return done == theirs.train.iterations and length(theirs) == length(ours)


def change(workdir: Path, theirs: Config, ours: Config, done: int) -> str | None:
    """What another length changes of a run, as a line; None where nothing.

    Args:
      workdir: of the run, for messages.
      theirs: the config that it was trained with so far.
      ours: the config to go on with.
      done: iterations.

    Raises:
      InputError: the longer run would have had other learning rates until here, or has been longer already.
    """
    old, new = length(theirs), length(ours)
    if old == new:
        return None
    if new.iterations < done:
        raise InputError(
            f"{workdir} has been trained for {done} iterations, more than the {new.iterations} that are asked for: use "
            "another workdir, or evaluate --checkpoint=ITERATION"
        )
    facts = {
        "iterations": (str(new.iterations), str(old.iterations)),
        "drops of the rate after iteration": (_numbers(new.drops), _numbers(old.drops)),
        "iterations of warm-up": (str(new.warmup), str(old.warmup)),
    }
    changes = ", ".join(f"{what} {now} instead of {then}" for what, (now, then) in facts.items() if now != then)
    # The update that leads from iteration k to k + 1 has the rate after k.
    before, after = ({drop for drop in each.drops if drop < done} for each in (old, new))
    if done and (before != after or old.warmup != new.warmup):
        fields = {"boundaries": ",".join(map(str, old.drops)) or "()"} if before != after else {}
        fields |= {"warmup_steps": old.warmup} if old.warmup != new.warmup else {}
        given = " ".join(f"config.optimizer.{field}={value}" for field, value in fields.items())
        raise InputError(
            f"{workdir} cannot go on so, for its {done} iterations would have had other learning rates: {changes}. "
            f"{given} leaves them as they were, another workdir begins again"
        )
    return f"this run changes: {changes}"


def _numbers(steps: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, steps)) or "none"
