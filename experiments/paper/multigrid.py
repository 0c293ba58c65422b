"""Residual representations, section 2: multigrid solves for a residual on a coarser grid, and needs far fewer sweeps.

The paper's motivation in small: -u'' = f on (0, 1) with u = 0 at both ends, from a random start, once by Gauss-Seidel
sweeps and once by V-cycles that smooth twice, solve for the residual on every second point, and smooth twice again.
Their smoother is damped Jacobi, which is weaker: with Gauss-Seidel a V-cycle solves this problem in one dimension
exactly. It has one form; it takes some CPU seconds and no network.

Expect some V-cycles on any grid, and sweeps whose number grows with the points.
"""

from pathlib import Path

import experiment
import numpy as np
from experiment import Claim, Curves, shown

POINTS = (31, 63, 127, 255)
SEEDS = (0, 1, 2)
REDUCTION = 1e-6  # of the residual's norm
# Decided before the run: so many times less work on the largest grid, and V-cycles that do not grow with the grid.
LESS_WORK, MOST_GROWTH = 10, 1.5


def residual(u, f):
    """f + u'' at the inner points of (0, 1)."""
    padded, h = np.pad(u, 1), 1 / (len(u) + 1)
    return f - (2 * u - padded[:-2] - padded[2:]) / h**2


def sweep(u, f):
    """One Gauss-Seidel sweep, every second point first (red-black)."""
    h = 1 / (len(u) + 1)
    for first in (0, 1):
        padded = np.pad(u, 1)
        new = (padded[:-2] + padded[2:] + h**2 * f) / 2
        u = u.copy()
        u[first::2] = new[first::2]
    return u


def smooth(u, f):
    """One Jacobi sweep with damping 2/3."""
    return u + residual(u, f) * (2 / 3) / (2 * (len(u) + 1) ** 2)


def v_cycle(u, f):
    """A V-cycle and its cost, in sweeps of the grid that it begins on."""
    if len(u) == 1:
        return f / 8, 1.0  # the exact solution on one inner point, where h is 1/2
    for _ in range(2):
        u = smooth(u, f)
    r = residual(u, f)
    coarse = (r[:-2:2] + 2 * r[1:-1:2] + r[2::2]) / 4
    correction, cost = v_cycle(np.zeros_like(coarse), coarse)
    padded = np.pad(correction, 1)
    fine = np.zeros_like(u)
    fine[1::2], fine[::2] = correction, (padded[:-1] + padded[1:]) / 2
    u = u + fine
    for _ in range(2):
        u = smooth(u, f)
    return u, 5 + cost / 2  # a residual costs about what a sweep does


def solve(points, seed, step):
    """Steps and work until the residual is small enough, and its norm after each step as a share of the first one."""
    generator = np.random.default_rng(seed)
    u, f = generator.normal(size=points), generator.normal(size=points)
    norms, work = [np.linalg.norm(residual(u, f))], 0.0
    while norms[-1] > REDUCTION * norms[0]:
        u, cost = step(u, f)
        work += cost
        norms.append(np.linalg.norm(residual(u, f)))
    return len(norms) - 1, work, np.array(norms) / norms[0]


def small(workdir: Path) -> list[Claim]:
    """Sweeps and V-cycles on four grids, with three right-hand sides each."""
    sweeps = {n: [solve(n, seed, lambda u, f: (sweep(u, f), 1.0)) for seed in SEEDS] for n in POINTS}
    cycles = {n: [solve(n, seed, v_cycle) for seed in SEEDS] for n in POINTS}
    largest = POINTS[-1]
    gains = [a[1] / b[1] for a, b in zip(sweeps[largest], cycles[largest], strict=True)]
    growth = [b[0] / a[0] for a, b in zip(cycles[POINTS[0]], cycles[largest], strict=True)]
    better = min(gains) >= LESS_WORK and max(growth) <= MOST_GROWTH
    return [
        Claim(
            statement=f"Solving for residuals on coarser grids takes at least {LESS_WORK} times less work than sweeps.",
            paper="solvers that are aware of residuals converge much faster",
            section="section 2",
            ours=[round(gain, 1) for gain in gains],
            state=shown(better),
            unit=f"times less work on {largest} points",
            seeds=len(SEEDS),
            data="-u'' = f on (0, 1), random f and start",
            budget=f"until the residual is {REDUCTION:g} of the first",
            numbers={
                "points": POINTS,
                "sweeps": [[run[0] for run in sweeps[n]] for n in POINTS],
                "v_cycles": [[run[0] for run in cycles[n]] for n in POINTS],
            },
            figure=Curves(
                x="inner points",
                y="work, in sweeps of the finest grid",
                lines={
                    name: (POINTS, [float(np.mean([run[1] for run in runs[n]])) for n in POINTS])
                    for name, runs in (("Gauss-Seidel", sweeps), ("V-cycles", cycles))
                },
                log_y=True,
            ),
        )
    ]


if __name__ == "__main__":
    experiment.main(__file__)
