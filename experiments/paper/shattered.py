"""Shattered gradients (Balduzzi et al., 1702.08591): why a shortcut makes the gradient of a near input say something.

Multi-layer networks of 200 ReLU units on one number, 256 inputs in [-2, 2], as they are drawn: He's initialisation,
biases in the first layer only. The autocorrelation of the gradient by the input, of 12 draws: of 1, 24 and 50 plain
layers, and of 50 residual ones, (h + F(h)) / √2 and h + 0.1 F(h) with F(h) = W relu(h), so that ReLUs are still passed
by numbers of either sign. It has one form: about 25 CPU seconds, no data set and no training.

Expected: plain networks' gradients become noise with depth, residual ones' much slower. The rule, written before the
run: the mean at 5 inputs' distance falls by 0.1 or more from 1 to 24 and from 24 to 50 plain layers, and that of either
residual form is above that of 50 plain layers by 0.1 or more.
"""

from functools import partial
from pathlib import Path

import experiment
import jax
import jax.numpy as jnp
import numpy as np
from experiment import Claim, Curves, shown

from resnet_jax.analysis import gradient_autocorrelation

WIDTH, DRAWS, LAGS = 200, 12, tuple(range(16))
INPUTS = np.linspace(-2, 2, 256, dtype=np.float32)
# The layers, and what a layer makes of its input and of F of it.
NETWORKS = {
    "plain, 1 layer": (1, lambda h, f: f),
    "plain, 24 layers": (24, lambda h, f: f),
    "plain, 50 layers": (50, lambda h, f: f),
    "residual, 50 layers, / √2": (50, lambda h, f: (h + f) / np.sqrt(2).astype(np.float32)),
    "residual, 50 layers, 0.1 F": (50, lambda h, f: h + 0.1 * f),
}


def output(name: str, weights, x):
    """The network's only output: a scalar of a scalar."""
    first, bias, inner, last = weights
    join = NETWORKS[name][1]
    hidden, _ = jax.lax.scan(lambda h, w: (join(h, jax.nn.relu(h) @ w), None), first * x + bias, inner)
    return jax.nn.relu(hidden) @ last


def draw(name: str, seed: int):
    """Kernels with the variance 2 / width; the first layer's zero crossings lie among the inputs."""
    keys = jax.random.split(jax.random.key(seed), 4)
    inner = jax.random.normal(keys[2], (NETWORKS[name][0] - 1, WIDTH, WIDTH)) * np.sqrt(2 / WIDTH).astype(np.float32)
    return *(jax.random.normal(key, (WIDTH,)) for key in keys[:2]), inner, jax.random.normal(keys[3], (WIDTH,))


def small(workdir: Path) -> list[Claim]:
    """Five kinds of networks."""
    found = {
        name: np.array(
            [
                gradient_autocorrelation(partial(output, name, draw(name, seed)), jnp.asarray(INPUTS), LAGS)
                for seed in range(DRAWS)
            ]
        )
        for name in NETWORKS
    }
    at_5 = {name: each[:, 5] for name, each in found.items()}
    one, few, many, *residual = (each.mean() for each in at_5.values())
    lines = {name: (list(LAGS), [round(float(value), 3) for value in each.mean(0)]) for name, each in found.items()}
    same = {
        "seeds": DRAWS,
        "data": f"{len(INPUTS)} inputs of one number in [-2, 2]",
        "budget": "no training",
        "section": "1702.08591, of the mechanism behind section 4.1",
    }

    def listed(names) -> str:
        return "; ".join(f"{name}: {experiment.text(at_5[name].tolist(), digits=2)}" for name in names)

    return [
        Claim("The gradients of plain networks look like noise, the more the deeper they are.",
              "(not in this paper)", listed(list(NETWORKS)[:3]), shown(one - few >= 0.1 and few - many >= 0.1),
              unit="autocorrelation at 5 inputs' distance", figure=Curves("lag", "autocorrelation", lines), **same),
        Claim("Those of residual networks of the same depth have more in common with their neighbours.",
              "(not in this paper)", listed(list(NETWORKS)[2:]), shown(min(residual) - many >= 0.1),
              unit="autocorrelation at 5 inputs' distance", **same),
    ]  # fmt: skip


if __name__ == "__main__":
    experiment.main(__file__)
