"""Table 6: residual networks of 20 to 1,202 layers on CIFAR-10.

Small form: none would be honest, since no smaller data tell these depths apart; its claims are not run, each with its
command. `figure1_6.py` shows the direction on digits, and `complexity.py` counts the parameters.

Full form: the paper's recipe, 64,000 iterations of 128 images, seeds 0 to 4 of 20, 32, 44, 56 and 110 layers, which
`figure1_6.py` trains too, and one seed of 1,202. Cost: not measured; 41 to 253 million multiply-adds an image and three
passes make 1e15 to 6.2e15 multiply-adds a training, 7e16 with 1,202 layers.

Expected: errors fall to 110 layers, by a quarter, and rise with 1,202.
"""

import statistics
from pathlib import Path

import experiment
from experiment import Claim, shown

import resnet_jax as rj

DEPTHS = (20, 32, 44, 56, 110, 1202)
# How far a mean may be from the paper's, in points, where it is not within two standard deviations of ours.
NEAR = 0.3
TABLE = rj.analysis.paper_table(6)


def claim(depth: int, errors: list[float], data: str = "CIFAR-10") -> Claim:
    """Shown where our mean is at most `NEAR` points, or two standard deviations, from the paper's error; of 110 layers
    from its mean.
    """
    name = f"ResNet-{depth}"
    paper = TABLE.value(name, "mean") or TABLE.value(name)
    state = "not run"
    if errors:
        spread = statistics.stdev(errors) if len(errors) > 1 else 0
        state = shown(abs(statistics.mean(errors) - paper) <= max(NEAR, 2 * spread))
    seeds = 1 if depth == 1202 else 5
    command = (
        f"resnet-jax sweep --config=cifar10 --axis model.family=cifar_resnet --axis model.depth={depth} "
        f"--axis seed={','.join(map(str, range(seeds)))} --workdir=runs/paper/cifar10"
    )
    statement = f"{name} has this error on CIFAR-10{', on average' if depth == 110 else ''}."
    return Claim(
        *(statement, paper, errors, state, "%", seeds, data),
        budget="64,000 iterations of 128 images, rate 0.1",
        section="Table 6",
        command="" if errors else command,
    )


def small(workdir: Path) -> list[Claim]:
    """Nothing is run."""
    return [claim(depth, []) for depth in DEPTHS]


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10."""
    errors = {
        depth: [100 * run.result["test_error"] for run in experiment.cifar10(workdir, "cifar_resnet", depth)]
        for depth in DEPTHS[:-1]
    }
    errors[1202] = [100 * experiment.cifar10(workdir, "cifar_resnet", 1202, seeds=1)[0].result["test_error"]]
    return [claim(depth, errors[depth], experiment.cifar10_data()[1]) for depth in DEPTHS]


if __name__ == "__main__":
    experiment.main(__file__)
