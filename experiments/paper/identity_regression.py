"""Section 3.1: is a residual easier to push to zero than an identity is to fit by non-linear layers?

Two layers F(x) = W2 relu(W1 x) of 64 units learn H from 256 random inputs, once as F(x) and once as F(x) + x: the
identity, a small change of it, and a random two-layer map, which is nearer to zero than to the identity. Plain gradient
descent from the paper's initialisation, 2,000 steps, each at three rates, of which the one with the lowest final error
counts, for either form. It has one form: about 35 CPU seconds, no data set.

Expect orders of magnitude at the identity, a gain at the small change, and none at the random map, which either form
fits. The rules below were written after a look at seeds 0 to 4, and are held against seeds 5 to 9.
"""

from functools import partial
from pathlib import Path

import experiment
import jax
import jax.numpy as jnp
import numpy as np
from experiment import Claim, Curves, shown

WIDTH, INPUTS, STEPS, EVERY = 64, 256, 2000, 50
RATES = (0.3, 1.0, 3.0)
SEEDS = (5, 6, 7, 8, 9)
# Rules on the relative error with the shortcut as a share of that without, in every seed.
RULES = {
    "identity": lambda ratios: max(ratios) <= 0.1,
    "near identity": lambda ratios: max(ratios) <= 0.5,
    "random": lambda ratios: min(ratios) >= 1 / 3 and max(ratios) <= 3,
}


def layers(key, width=WIDTH):
    """W1 and W2 with the variance 2 / width."""
    keys = jax.random.split(key)
    return tuple(jax.random.normal(each, (width, width)) * np.sqrt(2 / width) for each in keys)


def branch(weights, x):
    """F(x)."""
    return jax.nn.relu(x @ weights[0]) @ weights[1]


TARGETS = {
    "identity": lambda weights, x: x,
    "near identity": lambda weights, x: x + 0.1 * branch(weights, x),
    "random": branch,
}


@partial(jax.jit, static_argnums=(0, 1))
def train(target, shortcut, seed, rate):
    """The relative error, ``|f(x) - H(x)| / |H(x)|``, every 50 steps."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (INPUTS, WIDTH))
    h = TARGETS[target](layers(keys[1]), x)

    def loss(weights):
        found = branch(weights, x) + (x if shortcut else 0)
        return ((found - h) ** 2).sum(1).mean() / 2

    def step(weights, _):
        value, gradient = jax.value_and_grad(loss)(weights)
        # The rate is per unit of the width, so that one range of rates serves.
        return jax.tree.map(lambda w, g: w - rate * g / np.sqrt(WIDTH), weights, gradient), value

    _, losses = jax.lax.scan(step, layers(keys[2]), length=STEPS)
    return jnp.sqrt(2 * losses[EVERY - 1 :: EVERY] / (h**2).sum(1).mean())


def curves(target, shortcut):
    """The relative errors of the best rate, (seeds, points), and that rate for each seed."""
    over_rates = jax.vmap(partial(train, target, shortcut), (None, 0))
    found = np.array([over_rates(seed, jnp.array(RATES)) for seed in SEEDS])
    best = np.where(np.isfinite(found[:, :, -1]), found[:, :, -1], np.inf).argmin(1)
    return found[np.arange(len(SEEDS)), best], [RATES[i] for i in best]


def small(workdir: Path) -> list[Claim]:
    """Three targets, each with and without the shortcut."""
    claims = []
    for target, statement, paper in (
        ("identity", "A residual is ten times easier to push to zero than an identity is to fit by layers.", "easier"),
        ("near identity", "A small change of the identity is twice as easy to learn with the shortcut.", "easier"),
        ("random", "Far from the identity both forms fit alike, within a factor of three.", "both can approximate it"),
    ):
        (plain, plain_rates), (residual, residual_rates) = (curves(target, shortcut) for shortcut in (False, True))
        ratios = residual[:, -1] / plain[:, -1]
        steps = list(range(EVERY, STEPS + 1, EVERY))
        lines = {
            name: (steps, [float(f"{each:.4g}") for each in np.median(found, 0)])
            for name, found in (("F(x)", plain), ("F(x) + x", residual))
        }
        claims.append(
            Claim(
                statement=statement,
                paper=f"hypothesis: {paper}",
                section="section 3.1",
                ours=[float(f"{ratio:.3g}") for ratio in ratios],
                state=shown(RULES[target](ratios)),
                unit="relative error with the shortcut / without",
                seeds=len(SEEDS),
                data=f"{INPUTS} random inputs of {WIDTH} numbers; H: {target}",
                budget=f"{STEPS} steps of gradient descent at the best of {len(RATES)} rates",
                numbers={
                    "final_plain": [float(f"{each:.4g}") for each in plain[:, -1]],
                    "final_residual": [float(f"{each:.4g}") for each in residual[:, -1]],
                    "rates_plain": plain_rates,
                    "rates_residual": residual_rates,
                },
                figure=Curves(x="steps", y=f"relative error, H: {target}", lines=lines, log_y=True),
            )
        )
    return claims


if __name__ == "__main__":
    experiment.main(__file__)
