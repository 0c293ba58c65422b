"""Section 4.1: gradients do not vanish with batch norm, so that is not what makes deep plain networks hard to train.

The norms of the gradient by each kernel, times the kernel's own norm, since behind a batch norm the gradient is inverse
to the kernel's size. Plain and residual networks of 56 layers as they are drawn, with He's and with a small Gaussian
(0.01) initialisation, with and without batch norm, on 64 digits, seeds 0 to 2; and plain networks of 20 and 56 layers
after 400 iterations. A freshly drawn network whose batch norms go by the running statistics is one without.

It has one form: about 90 CPU seconds beside the trainings, which other experiments share.

Expected: with batch norm no gradient vanishes, whatever the initialisation; without it and with small weights all do.
In plain networks they grow from layer to layer backwards, as 1902.08129 derives of batch norm, here by a factor of 450,
so that the rule calls them unhealthy at initialisation: they explode mildly, and do not vanish.

The rules, written before the run: healthy is finite, above 1e-6 and within a factor of 100 over the layers, in every
seed; vanished is below 1e-6 of the classifier's, in every seed, at the first layer.
"""

from pathlib import Path

import experiment
import jax
import numpy as np
from experiment import Claim, Curves, shown

import resnet_jax as rj

SEEDS = range(3)
HEALTHY_FACTOR, VANISHED = 100, 1e-6


def drawn(family: str, seed: int, deviation: float | None = None) -> rj.Classifier:
    """A network as it is drawn, by He's rule or with kernels of one standard deviation."""
    model, shape = rj.create(f"{family}56", epsilon=0.0), (8, 8, 1)
    variables = jax.device_get(rj.models.init(model, shape, jax.random.key(seed)))
    draws = np.random.default_rng(seed)

    def small(path, leaf):
        conv = path[-1].key == "kernel" and leaf.ndim > 2
        return np.float32(draws.normal(0, deviation, leaf.shape)) if conv else leaf

    if deviation is not None:
        variables = jax.tree_util.tree_map_with_path(small, variables)
    normed = rj.data.Preprocessing.of_channels([0.3], [0.35])
    return rj.Classifier(model, variables, normed, tuple("0123456789"), shape)


def products(network: rj.Classifier, train: bool) -> list[float]:
    """Of each convolution in the order of execution, and of the classifier."""
    images = rj.data.load("digits").train.take(np.arange(64))
    found = rj.analysis.gradient_norms(network, images.images, images.labels, train=train)
    return [float(f"{each.gradient_norm * each.kernel_norm:.4g}") for each in found]


def factor(norms: list[float]) -> float:
    """Largest over smallest, of the convolutions."""
    return max(norms[:-1]) / max(min(norms[:-1]), 1e-45)


def healthy(cases: list[list[float]]) -> bool:
    """Whether gradients are healthy in all seeds."""
    return all(np.isfinite(each).all() and min(each) > VANISHED and factor(each) < HEALTHY_FACTOR for each in cases)


def figure(cases: dict[str, list[list[float]]]) -> Curves:
    """The geometric means over the seeds, of gradients that are not 0 in float32."""
    lines = {}
    for name, each in cases.items():
        if np.min(each) == 0:
            continue
        values = np.exp(np.log(each).mean(0))
        lines[name] = (list(range(1, len(values) + 1)), [float(f"{value:.4g}") for value in values])
    return Curves("layer", "gradient norm × kernel norm", lines, log_y=True)


def small(workdir: Path) -> list[Claim]:
    """At initialisation, and after a training."""
    cases = {
        f"{name}, {batch_norm} batch norm, {init}": [
            products(drawn(family, seed, deviation), batch_norm == "with") for seed in SEEDS
        ]
        for name, family in (("plain-56", "cifar_plain"), ("ResNet-56", "cifar_resnet"))
        for batch_norm in ("with", "without")
        for init, deviation in (("He", None), ("0.01", 0.01))
    }
    trained = {
        f"plain-{depth}, trained": [
            products(experiment.digits(workdir, "cifar_plain", depth, seed).classifier, True) for seed in SEEDS
        ]
        for depth in (20, 56)
    }
    edges = {name: [float(f"{e[0] / max(e[-2], 1e-45):.3g}") for e in case] for name, case in (cases | trained).items()}
    vanished = cases["plain-56, without batch norm, 0.01"]

    def with_norm(network: str) -> dict[str, list[list[float]]]:
        return {name: case for name, case in cases.items() if ", with " in name and name.startswith(network)}

    def factors(some: dict[str, list[list[float]]]) -> str:
        return "; ".join(f"{name}: " + ", ".join(f"{factor(each):.3g}" for each in case) for name, case in some.items())

    same = {"seeds": len(SEEDS), "data": "64 digits"}
    return [
        Claim("With batch norm the gradients of a plain network of 56 layers are healthy from the start.",
              "healthy norms with BN", f"largest / smallest of the layers: {factors(with_norm('plain'))}",
              shown(all(map(healthy, with_norm("plain").values()))), section="section 4.1", figure=figure(cases),
              numbers={"first layer / last": edges}, **same),
        Claim("With batch norm the gradients of a residual network of 56 layers are healthy from the start.",
              "(said of plain ones)", f"largest / smallest of the layers: {factors(with_norm('ResNet'))}",
              shown(all(map(healthy, with_norm("ResNet").values()))), section="section 4.1", **same),
        Claim("Without batch norm, small weights make the gradients of a plain network of 56 layers vanish.",
              "largely addressed by initialisation and normalisation",
              "first layer / classifier: " + ", ".join(f"{each[0] / max(each[-1], 1e-45):.2g}" for each in vanished),
              shown(all(each[0] <= VANISHED * each[-1] for each in vanished)), section="section 1", **same),
        Claim("In trained plain networks of 56 layers, which have not learnt, the gradients have not vanished.",
              "vanishing gradients are unlikely to be the reason",
              f"largest / smallest of the layers: {factors(trained)}", shown(healthy(trained["plain-56, trained"])),
              budget="400 iterations of 64 images, rate 0.03", section="section 4.1", figure=figure(trained), **same),
    ]  # fmt: skip


if __name__ == "__main__":
    experiment.main(__file__)
