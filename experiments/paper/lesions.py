"""Lesions and swaps (Veit et al., 1605.06431): a residual network bends where a plain one breaks.

Digits networks of other experiments (400 iterations at 0.03, seeds 0 to 2): plain-20, ResNet-20 and ResNet-56. Each
block is replaced by its shortcut in turn, in the plain network by one of option A; then blocks of a stage are swapped,
1, 2, 4, 8 and 16 times at random, the average of 5 draws. About 85 CPU seconds beside the trainings.

Full form: the CIFAR-10 networks of figure1_6 at 20, 56 and 110 layers. Cost: not measured.

Expected: each lesion ruins the plain network; of a deep residual one most are hardly seen, but for the first blocks and
those where maps shrink. The rules, written before the run and held against every seed: plain-20's error rises by 30
points at the median block, and by 10 at each; the deepest ResNet's by at most 5 at the median block; one swap raises
the plain network's error by 20 points more than the deepest ResNet's, and that one's grows from 1 to 16 swaps.
"""

import itertools
import statistics
from pathlib import Path

import experiment
import numpy as np
from experiment import Claim, Curves, shown, text

import resnet_jax as rj

SWAPS, DRAWS = (1, 2, 4, 8, 16), 5
PLACE = "place of the block without which it is: first 0, last 1"


def error(network: rj.Classifier, split: rj.data.Split) -> float:
    """In percent."""
    return 100 * rj.evaluate(network, split, batch_size=256).error


def swapped(network: rj.Classifier, times: int, seed: int) -> rj.Classifier:
    """With so many random pairs of alike blocks swapped, one pair after the other."""
    draws = np.random.default_rng(seed)
    # The first block of a stage shrinks the maps.
    stages = [[f"stage{i}/block{j}" for j in range(2, n + 1)] for i, n in enumerate(network.model.stage_sizes, 1)]
    pairs = [pair for stage in stages for pair in itertools.combinations(stage, 2)]
    for number in draws.integers(len(pairs), size=times):
        network = rj.analysis.swap_blocks(network, *pairs[number])
    return network


def claims(runs: dict[str, list[rj.runs.Run]], split: rj.data.Split, data: str, budget: str) -> list[Claim]:
    """The first network is the plain one, the last one the deepest residual one."""
    plain, *_, deep = runs
    whole = {name: [error(run.classifier, split) for run in each] for name, each in runs.items()}
    lesions = {
        name: [[100 * e for e in rj.analysis.lesion_errors(run.classifier, split).values()] for run in each]
        for name, each in runs.items()
    }
    rises = {name: [[e - w for e in each] for each, w in zip(lesions[name], whole[name], strict=True)] for name in runs}
    medians = {name: [statistics.median(each) for each in rises[name]] for name in runs}
    swaps = {
        name: [
            [statistics.mean(error(swapped(run.classifier, n, seed), split) for seed in range(DRAWS)) for n in SWAPS]
            for run in runs[name]
        ]
        for name in (plain, deep)
    }
    first = {name: [each[0] - w for each, w in zip(swaps[name], whole[name], strict=True)] for name in swaps}
    mean = {name: np.mean(each, 0).round(2).tolist() for name, each in lesions.items()}
    # Blocks at their place in the network, so that depths can be compared.
    bars = {name: ((np.arange(len(each)) / len(each)).round(3).tolist(), each) for name, each in mean.items()}
    curves = {name: ([0, *SWAPS], [round(statistics.mean(whole[name]), 2), *np.mean(swaps[name], 0).round(2).tolist()])
              for name in swaps}  # fmt: skip
    numbers = {"errors of whole networks": whole, "rises at the median block": medians}
    same = {"unit": "%", "seeds": len(runs[plain]), "data": data, "budget": budget, "section": "1605.06431"}
    least = min(map(min, rises[plain]))
    broken = all(m >= 30 and min(each) >= 10 for m, each in zip(medians[plain], rises[plain], strict=True))
    worse = all(p - r >= 20 for p, r in zip(first[plain], first[deep], strict=True))
    worse = worse and all(each[-1] > each[0] for each in swaps[deep])
    last = [each[-1] for each in swaps[deep]]
    return [
        Claim(f"Without any one of its blocks, {plain} is ruined.", "so of VGG",
              f"error up by {text(medians[plain], ' %')} at the median block, {least:.1f} % at the least",
              shown(broken), numbers=numbers, figure=Curves(PLACE, "test error (%)", bars), **same),
        Claim(f"Without the median block, {deep} errs hardly more.", "so of a ResNet of 54 blocks",
              "error up by " + ", ".join(f"{text(medians[name], ' %')} in {name}" for name in list(runs)[1:]),
              shown(max(medians[deep]) <= 5), **same),
        Claim("One swap of two blocks ruins a plain network; a residual one errs the more the more are swapped.",
              "so of a ResNet of 54 blocks", f"error up by {text(first[plain], ' %')} in {plain}, "
              f"{text(first[deep], ' %')} in {deep}; its error after 16: {text(last, ' %')}", shown(worse),
              figure=Curves("swaps", "test error (%)", curves), **same),
    ]  # fmt: skip


def small(workdir: Path) -> list[Claim]:
    """On digits."""
    networks = {"plain-20": ("cifar_plain", 20), "ResNet-20": ("cifar_resnet", 20), "ResNet-56": ("cifar_resnet", 56)}
    runs = {name: [experiment.digits(workdir, *each, seed) for seed in range(3)] for name, each in networks.items()}
    return claims(runs, rj.data.load("digits").test, "digits", "400 iterations of 64 images, rate 0.03")


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10, of the runs of figure1_6."""
    names = {"plain-20": ("cifar_plain", 20), "ResNet-56": ("cifar_resnet", 56), "ResNet-110": ("cifar_resnet", 110)}
    runs = {name: experiment.cifar10(workdir, *each) for name, each in names.items()}
    data, name = experiment.cifar10_data()
    return claims(runs, data.test, name, "64,000 iterations of 128 images, rate 0.1")


if __name__ == "__main__":
    experiment.main(__file__)
