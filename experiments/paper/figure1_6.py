"""Figures 1 and 6: deeper plain networks have higher training error, deeper residual networks have not.

Small form: the 1,797 digits of scikit-learn at a rate of 0.03, plain and residual networks of 20 and 56 layers, 400
iterations of 64 images, seeds 0, 1 and 2. Cost: about 13 minutes of CPU time on 2 cores of an Intel Xeon (a
network of 20 layers took 40 CPU seconds, one of 56 layers 90). Other small forms take their networks from here.

Short form: CIFAR-10 with the paper's recipe, but 400 iterations of 128 images, which is one epoch; the rate of 0.1
drops after 200 and 300. Plain and residual networks of 20 and 56 layers, seeds 0 to 2. Cost: a network of 56 layers
took six minutes on 2 cores of an Intel Xeon with nothing beside it. So short a schedule shows the plain networks'
degradation; ResNet-56 is not level with ResNet-20 after it.

Full form: CIFAR-10 with the paper's recipe, plain and residual networks of 20, 32, 44, 56 and 110 layers, seeds 0 to 4,
64,000 iterations of 128 images. Cost: not measured. `resnet-jax sweep --config=cifar10
--axis model.family=cifar_plain,cifar_resnet --axis model.depth=20,32,44,56,110 --axis seed=0,1,2,3,4
--workdir=runs/paper/cifar10` trains the same on a cluster; its folders are those that the full form goes on with.

Expected: the training error says it first, so it is no overfitting. The full form judges 20 against 56 layers,
ResNet-110 against ResNet-20, and whether plain-110 stays above 60 %.
"""

import statistics
from pathlib import Path

import experiment
from experiment import Claim, Curves, shown, text

import resnet_jax as rj

FAMILIES = {"plain": "cifar_plain", "ResNet": "cifar_resnet"}
# Of the short form.
ITERATIONS = 400
BUDGET = f"{ITERATIONS} iterations of 128 images, rate 0.1"


def training_error(run: rj.runs.Run) -> float:
    """In percent, of the last iterations between two lines of the log, as they were trained on."""
    return [100 * line["train_error"] for line in run.metrics if "train_error" in line][-1]


def curves(runs: dict[str, list[rj.runs.Run]]) -> Curves:
    """Errors against iterations, means over the seeds."""
    lines = {}
    for name, trained in runs.items():
        for split, title in (("train", "training"), ("test", "test")):
            steps = [line["step"] for line in trained[0].metrics if f"{split}_error" in line]
            errors = [[100 * line[f"{split}_error"] for line in r.metrics if f"{split}_error" in line] for r in trained]
            lines[f"{name}, {title}"] = (steps, [statistics.mean(each) for each in zip(*errors, strict=True)])
    return Curves("iterations", "error (%)", lines)


def claims(runs: dict[str, list[rj.runs.Run]], shallow: int, deep: int, data: str, budget: str) -> list[Claim]:
    """Plain is shown where the deep network's training error is above the shallow one's in every seed, on average by 10
    points or half of it; residual where its mean is not above by more than the deep one's standard deviation.
    """
    seeds = len(next(iter(runs.values())))
    training = {name: [training_error(run) for run in each] for name, each in runs.items()}
    test = {name: [100 * run.result["test_error"] for run in each] for name, each in runs.items()}
    numbers = {"training errors": training, "test errors": test}
    means = {name: statistics.mean(each) for name, each in training.items()}
    plain, resnet = ((f"{name}-{shallow}", f"{name}-{deep}") for name in FAMILIES)
    worse = all(b > a for a, b in zip(training[plain[0]], training[plain[1]], strict=True))
    worse = worse and means[plain[1]] - means[plain[0]] >= min(10, means[plain[0]] / 2)
    level = means[resnet[1]] - means[resnet[0]] <= statistics.stdev(training[resnet[1]])
    tested = statistics.mean(test[plain[1]]) > statistics.mean(test[plain[0]])

    def found(names: tuple[str, str], errors: dict[str, list[float]]) -> str:
        return ", ".join(f"{name} {text(errors[name], ' %')}" for name in names)

    same = {"unit": "%", "seeds": seeds, "data": data, "budget": budget}
    return [
        Claim("The deeper plain network has the higher training error, so it does not overfit.", "so on CIFAR-10",
              found(plain, training), shown(worse), section="Figure 1, section 4.2", numbers=numbers,
              figure=curves(runs), **same),
        Claim("The deeper plain network has the higher test error.", "so on CIFAR-10",
              found(plain, test), shown(tested), section="Figure 1", **same),
        Claim("The training error of the deeper residual network is not above that of the shallow one.",
              "so on CIFAR-10", found(resnet, training), shown(level), section="Figure 6", **same),
    ]  # fmt: skip


def small(workdir: Path) -> list[Claim]:
    """On digits; 400 iterations show a direction, and no difference to the paper."""
    runs = {
        f"{name}-{depth}": [experiment.digits(workdir, family, depth, seed) for seed in range(3)]
        for name, family in FAMILIES.items()
        for depth in (20, 56)
    }
    return claims(runs, 20, 56, "digits", "400 iterations of 64 images, rate 0.03")


def short(workdir: Path) -> list[Claim]:
    """On CIFAR-10, for one epoch."""
    runs = {
        f"{name}-{depth}": experiment.cifar10(workdir, family, depth, 3, ITERATIONS)
        for depth in (20, 56)
        for name, family in FAMILIES.items()
    }
    return claims(runs, 20, 56, experiment.cifar10_data()[1], BUDGET)


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10."""
    runs = {
        f"{name}-{depth}": experiment.cifar10(workdir, family, depth)
        for name, family in FAMILIES.items()
        for depth in (20, 32, 44, 56, 110)
    }
    told = experiment.cifar10_data()[1], "64,000 iterations of 128 images, rate 0.1"
    stuck = [training_error(run) for run in runs["plain-110"]]
    return [
        *claims(runs, 20, 56, *told),
        *claims(runs, 20, 110, *told)[2:],
        Claim("The training error of the plain network of 110 layers stays above 60 %.", "so on CIFAR-10, not drawn",
              stuck, shown(min(stuck) > 60), "%", len(stuck), *told, section="Figure 6"),
    ]  # fmt: skip


if __name__ == "__main__":
    experiment.main(__file__)
