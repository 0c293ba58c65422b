"""Figure 7: residual networks respond less than plain ones, and the deeper ones of them less.

The standard deviation of each 3x3 layer's output after its batch norm, before the ReLU or the addition, over all
images, positions and channels, with the running statistics.

Small form: the digits networks of other experiments (400 iterations at 0.03, seeds 0 to 2), of 20 and 56 layers; and,
where the environment variable RESNET_JAX_TEST_DATA names a folder with akamaster's given weights, ResNet-20 and
ResNet-44 on 1,000 test images of CIFAR-10 (JPEG copies). About 35 CPU seconds beside the trainings.

Full form: the networks of figure1_6 on CIFAR-10, 20, 56 and 110 layers. Cost: not measured.

Expected: a batch norm begins with a standard deviation of 1, which shrinks by weight decay times rate times iterations.
So 400 iterations are too few to tell residual from plain on digits, where plain-56 has not learnt: that is the full
form's. The given weights show the order of depths. The rules, written before the run: a network's value is the mean
over its layers; lower is lower in every seed.
"""

import os
from pathlib import Path
from statistics import mean

import experiment
import numpy as np
from experiment import Claim, Curves, shown, text

import resnet_jax as rj

FULL = "python experiments/paper/figure7.py --form=full"
GIVEN = {"ResNet-20": "resnet20-12fca82f.th", "ResNet-44": "resnet44-014dd654.th"}


def responses(network: rj.Classifier, images: np.ndarray) -> list[float]:
    """In the order of execution."""
    return [round(each.std, 4) for each in rj.analysis.layer_responses(network, images, batch_size=100)]


def figure(found: dict[str, list[list[float]]]) -> Curves:
    """Sorted, as at the bottom of the paper's figure; means over the seeds."""
    lines = {name: np.sort(np.mean(each, 0))[::-1].round(4).tolist() for name, each in found.items()}
    return Curves(
        "layer, by its response",
        "standard deviation",
        {name: (list(range(1, len(each) + 1)), each) for name, each in lines.items()},
    )


def claims(found: dict[str, list[list[float]]], data: str, budget: str, trained: bool) -> list[Claim]:
    """Plain against residual of one depth, if they are trained long enough to tell, and residual of growing depth."""
    values = {name: [mean(each) for each in seeds] for name, seeds in found.items()}
    residual = [name for name in found if name.startswith("ResNet")]
    pairs = [(name, twin) for name in residual if (twin := name.replace("ResNet", "plain")) in found]

    def ordered(pairs: list[tuple[str, str]]) -> bool:
        return all(a < b for low, high in pairs for a, b in zip(values[low], values[high], strict=True))

    def listed(names: list[str]) -> str:
        return ", ".join(f"{name} {text(values[name], digits=3)}" for name in names)

    same = {"seeds": len(next(iter(found.values()))), "data": data, "budget": budget, "section": "Figure 7"}
    numbers = {
        "responses in the order of execution, first seed": {name: each[0] for name, each in found.items()},
        "means over the layers": {name: [round(each, 4) for each in of] for name, of in values.items()},
    }
    return [
        Claim("Residual networks respond less than their plain counterparts.", "generally smaller",
              listed(list(found)) if trained else "", shown(ordered(pairs)) if trained else "not run",
              command="" if trained else FULL, **same),
        Claim("Deeper residual networks respond less.", "20 > 56 > 110", listed(residual),
              shown(ordered(list(zip(residual[1:], residual, strict=False)))), figure=figure(found), numbers=numbers,
              **same),
    ]  # fmt: skip


def given() -> Claim:
    """Of trained weights, where they are."""
    statement, root = (
        "ResNet-44 responds less than ResNet-20, with given weights.",
        os.environ.get("RESNET_JAX_TEST_DATA"),
    )
    same = {"data": "CIFAR-10, 1,000 test images", "section": "Figure 7"}
    if not root or not all((Path(root) / "weights" / each).is_file() for each in GIVEN.values()):
        return Claim(statement, "deeper ones respond less", "", "not run", command=FULL, **same)
    dataset, name = experiment.cifar10_data(Path(root) / "tfds")
    same["data"], images = f"{name}, 1,000 test images", dataset.test.images[:1000]
    networks = {name: rj.load_torch(Path(root) / "weights" / file) for name, file in GIVEN.items()}
    found = {name: responses(network, images) for name, network in networks.items()}
    means = {name: mean(each) for name, each in found.items()}
    ours = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
    return Claim(statement, "deeper ones respond less", f"mean over the layers: {ours}",
                 shown(means["ResNet-44"] < means["ResNet-20"]), seeds=1, budget="akamaster's weights",
                 figure=figure({name: [each] for name, each in found.items()}), **same)  # fmt: skip


def small(workdir: Path) -> list[Claim]:
    """On digits, and of given weights."""
    images = rj.data.load("digits").test.images
    found = {
        f"{name}-{depth}": [
            responses(experiment.digits(workdir, family, depth, seed).classifier, images) for seed in range(3)
        ]
        for depth in (20, 56)
        for name, family in (("plain", "cifar_plain"), ("ResNet", "cifar_resnet"))
    }
    return [given(), *claims(found, "digits", "400 iterations of 64 images, rate 0.03", trained=False)]


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10."""
    data, name = experiment.cifar10_data()
    names = {f"plain-{depth}": ("cifar_plain", depth) for depth in (20, 56)}
    names |= {f"ResNet-{depth}": ("cifar_resnet", depth) for depth in (20, 56, 110)}
    runs = {name: experiment.cifar10(workdir, *each) for name, each in names.items()}
    found = {name: [responses(run.classifier, data.test.images) for run in each] for name, each in runs.items()}
    return claims(found, name, "64,000 iterations of 128 images, rate 0.1", trained=True)


if __name__ == "__main__":
    experiment.main(__file__)
