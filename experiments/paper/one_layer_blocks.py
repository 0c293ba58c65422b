"""Section 3.2: blocks of one layer, y = W x + x, beside blocks of two and no shortcuts at all.

Small form: 20 layers on the digits, 400 iterations of 64 images at a rate of 0.03, seeds 0, 1 and 2; plain and with
blocks of two layers as figure1_6.py trains them. Cost: `cpu_seconds` of the results are of three trainings, on 2 CPU
cores, where the six others were there.

Full form: CIFAR-10 with the paper's recipe, 20 and 56 layers, blocks of 1, 2 and 3 layers and none, seeds 0 to 4. Cost:
not measured.

Expect the paper's remark not to be shown: a trial of seed 0 for 250 iterations gave training errors of 3.6 % with
blocks of one layer and 35 % plain. A ReLU follows each addition, and a batch norm each convolution, so that such a
block is less like a linear layer than the remark has it.
"""

import statistics
from pathlib import Path

import experiment
from experiment import Claim, shown, text

import resnet_jax as rj


def claims(runs, data, budget):
    """By the mean training error: of one layer no advantage where it is not below the plain network's by more than that
    one's standard deviation; of two layers an advantage over one where it is lower in every seed.
    """
    training = {
        name: [100 * [line["train_error"] for line in run.metrics if "train_error" in line][-1] for run in each]
        for name, each in runs.items()
    }
    test = {name: [100 * run.result["test_error"] for run in each] for name, each in runs.items()}
    plain, one, two = (training[name] for name in ("plain", "1 layer", "2 layers"))
    gain = statistics.mean(plain) - statistics.mean(one)
    better = all(b < a for a, b in zip(one, two, strict=True))
    ours = ", ".join(f"{name} {text(errors, ' %')}" for name, errors in training.items())
    same = {"unit": "%", "seeds": len(plain), "data": data, "budget": budget}
    return [
        Claim("Blocks of one layer show no advantage over a plain network of the same depth.",
              "no advantages observed", ours, shown(gain <= statistics.stdev(plain)), section="section 3.2",
              numbers={"training errors": training, "test errors": test}, **same),
        Claim("Blocks of two layers have a lower training error than blocks of one.",
              "has two or three in all its networks", ours, shown(better), section="section 3.2", **same),
    ]  # fmt: skip


def small(workdir: Path) -> list[Claim]:
    """On digits; 400 iterations show a direction, and no difference to the paper."""
    runs = {
        "plain": [experiment.digits(workdir, "cifar_plain", 20, seed) for seed in range(3)],
        "1 layer": [experiment.digits(workdir, "cifar_resnet", 20, seed, model__block_layers=1) for seed in range(3)],
        "2 layers": [experiment.digits(workdir, "cifar_resnet", 20, seed) for seed in range(3)],
    }
    return claims(runs, "digits, 20 layers", "400 iterations of 64 images, rate 0.03")


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10."""
    found = []
    for depth in (20, 56):
        runs = {
            "plain": experiment.cifar10(workdir, "cifar_plain", depth),
            "2 layers": experiment.cifar10(workdir, "cifar_resnet", depth),
        }
        for layers, name in ((1, "1 layer"), (3, "3 layers")):
            fields = {"model.depth": depth, "model.block_layers": layers}
            runs[name] = [
                experiment.train(
                    rj.configs.load("cifar10", {**fields, "seed": seed}), workdir / f"{layers}-{depth}-{seed}"
                )
                for seed in range(5)
            ]
        found += claims(
            runs, f"{experiment.cifar10_data()[1]}, {depth} layers", "64,000 iterations of 128 images, rate 0.1"
        )
    return found


if __name__ == "__main__":
    experiment.main(__file__)
