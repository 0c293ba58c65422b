"""Section 2, highway networks: open gates are residual, coupled ones cannot be, and gates make training another matter.

Small form: equalities on drawn weights; perceptrons of 50 layers without batch norm on the digits (width 71 plain and
50 gated, as figure 1 of 1505.00387), 500 iterations of 64 images, the best of three rates, seed 0; and 20 layers in the
paper's form, seeds 0 and 1, as figure1_6.py trains the residual ones. Cost: `cpu_seconds` of the results are without
these two, on 2 CPU cores.

Full form: CIFAR-10 with the paper's recipe, residual and highway networks of 20, 56 and 110 layers, seeds 0 to 4. Cost:
not measured.

Expect highway perceptrons to learn what plain ones do not, at any rate only with a bias that falls with depth; and the
gated network of 20 layers to begin more slowly than the residual one. Trials with seed 0 gave both.
"""

from pathlib import Path

import experiment
import jax
import numpy as np
from experiment import Claim, shown, text

import resnet_jax as rj
from resnet_jax.models import DeepMLP, Gates

RATES, STEPS, DEPTH = (0.1, 0.03, 0.01), 500, 50


def perceptron_losses(gates: Gates | None, width: int) -> list[float | None]:
    """The mean training loss of the last 50 steps at each rate; None where it is not finite."""
    digits, found = rj.data.load("digits"), []
    pixels = np.asarray(digits.train.images, np.float32)
    preprocessing = rj.data.Preprocessing(jax.numpy.asarray(pixels.mean(0)), jax.numpy.full((1, 1, 1), pixels.std()))
    for rate in RATES:
        model, optimizer = DeepMLP(DEPTH, width, 10, gates), rj.training.sgd(rate, momentum=0.9, weight_decay=0.0)
        state = rj.training.create_state(model, optimizer, seed=0, image_shape=digits.train.images.shape[1:])
        step, losses = rj.training.make_train_step(model, optimizer, preprocessing=preprocessing), []
        for batch in digits.train.batches(64, STEPS):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        loss = float(np.mean([each.total / each.count for each in losses[-50:]]))
        found.append(loss if np.isfinite(loss) else None)
    return found


def equalities() -> tuple[bool, float]:
    """Whether open gates give the residual network's logits and gradients to the bit; and by how much coupled constants
    miss its logits at least, relative to the largest one.
    """
    model = rj.create("cifar_resnet8", num_classes=10)
    variables = rj.models.init(model, (8, 8, 3), jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))

    def outputs(gates):
        def total(params):
            logits = model.clone(gates=gates).apply({**variables, "params": params}, images, False)
            return logits[:, 0].sum(), logits

        return jax.jit(jax.grad(total, has_aux=True))(variables["params"])

    residual, opened, *coupled = map(outputs, (None, Gates(1.0, 1.0), *(Gates(t, "coupled") for t in (0.0, 0.5, 1.0))))
    same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (residual, opened)), strict=True))
    return same, min(float(np.abs(each[1] - residual[1]).max() / np.abs(residual[1]).max()) for each in coupled)


def training_claim(runs: dict[str, list[rj.runs.Run]], data: str, budget: str) -> Claim:
    """Shown where every highway network's training error is above every residual one's."""
    errors = {
        name: [100 * [line["train_error"] for line in run.metrics if "train_error" in line][-1] for run in each]
        for name, each in runs.items()
    }
    ours = ", ".join(f"{name} {text(each, ' %')}" for name, each in errors.items())
    return Claim("With gates the training error is higher than without, at the same depth and budget.",
                 "does not say so; an opinion about it", ours, shown(min(errors["highway"]) > max(errors["ResNet"])),
                 unit="%", seeds=len(errors["ResNet"]), data=data, budget=budget, section="section 2",
                 numbers={"training errors": errors})  # fmt: skip


def small(workdir: Path) -> list[Claim]:
    """A highway perceptron learns where its loss at the best rate is below a tenth of the plain one's; the bias matters
    where the loss is lower at every rate.
    """
    same, missed = equalities()
    kinds = {"plain": (None, 71), "bias -2": (Gates(bias=-2.0), 50), "falling bias": (Gates(), 50)}
    losses = {name: perceptron_losses(*kind) for name, kind in kinds.items()}
    finite = {name: [np.inf if each is None else each for each in tried] for name, tried in losses.items()}
    best = {name: min(tried) for name, tried in finite.items()}
    below = all(a < b for a, b in zip(finite["falling bias"], finite["bias -2"], strict=True))
    ours = ", ".join(f"{name} {value:.3g}" for name, value in best.items())
    bias = f"{rj.models.half_open_bias(DEPTH - 2):.2f}"
    perceptrons = {"data": "digits, 50 layers", "budget": f"{STEPS} iterations of 64 images, the best of rates {RATES}",
                   "seeds": 1, "unit": "loss"}  # fmt: skip
    runs = {
        name: [experiment.digits(workdir, family, 20, seed) for seed in range(2)]
        for name, family in (("ResNet", "cifar_resnet"), ("highway", "cifar_highway"))
    }
    return [
        Claim("A highway network whose gates T and C are the constant 1 is the residual network.",
              "gates of identity shortcuts never close, and have no parameters",
              "logits and gradients equal to the bit" if same else "they differ", shown(same), section="section 2"),
        Claim("With coupled gates, C = 1 - T, no constant gives the residual network.", "does not say",
              f"logits differ by {missed:.0%} of the largest one at least, of T = 0, 1/2 and 1", shown(missed > 0.01),
              section="section 2"),
        Claim("Fifty gated layers without batch norm learn what fifty plain ones do not.",
              "cites highway networks for it", ours, shown(best["falling bias"] < best["plain"] / 10),
              section="section 2", numbers={"losses by rate": losses}, **perceptrons),
        Claim(f"The bias of the gates must fall with depth: {bias} learns better than -2 at every rate.",
              "does not say", ours, shown(below), **perceptrons),
        training_claim(runs, "digits, 20 layers", "400 iterations of 64 images, rate 0.03"),
    ]  # fmt: skip


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10."""
    found = []
    for depth in (20, 56, 110):
        runs = {name: experiment.cifar10(workdir, f"cifar_{name.lower()}", depth) for name in ("ResNet", "highway")}
        found.append(
            training_claim(
                runs, f"{experiment.cifar10_data()[1]}, {depth} layers", "64,000 iterations of 128 images, rate 0.1"
            )
        )
    return found


if __name__ == "__main__":
    experiment.main(__file__)
