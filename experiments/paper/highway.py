"""Section 2, highway networks: open gates are residual, coupled constants are not, and how gates change the training.

Small form: equalities on drawn weights; perceptrons of 20 and 50 layers without batch norm on the digits (width 71
plain and 50 gated, as figure 1 of 1505.00387), 500 iterations of 64 images, each at the best of nine rates, seeds 1
and 2; and 20 layers in the paper's form, seeds 0 and 1, as figure1_6.py trains the residual ones. Cost: `cpu_seconds`
of the results are without these two, on 2 CPU cores.

Full form: CIFAR-10 with the paper's recipe, residual and highway networks of 20, 56 and 110 layers, seeds 0 to 4. Cost:
not measured.

Expect highway perceptrons to learn what plain ones do not, best with a bias that falls with depth; and the gated
network of 20 layers to begin more slowly than the residual one. The rules were written after trials with seed 0, of 50
layers and three rates; the two highest rates came after a first run, in which gated networks were best at 0.3.
"""

from pathlib import Path

import experiment
import jax
import jax.numpy as jnp
import numpy as np
import optax
from experiment import Claim, shown, text

import resnet_jax as rj
from resnet_jax.models import DeepMLP, Gates

RATES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
STEPS, SEEDS, DEPTHS = 500, (1, 2), (20, 50)
KINDS = {"plain": (None, 71), "bias -2": (Gates(bias=-2.0), 50), "falling bias": (Gates(), 50)}


def perceptron_losses(depth: int, gates: Gates | None, width: int) -> np.ndarray:
    """The mean training loss of the last 50 steps, (seeds, rates); infinite where it is no number."""
    train, model = rj.data.load("digits").train, DeepMLP(depth, width, 10, gates)
    pixels = np.asarray(train.images, np.float32)
    images, labels = jnp.asarray((pixels - pixels.mean(0)) / pixels.std()), jnp.asarray(train.labels)

    def loss(params, batch):
        logits = model.apply({"params": params}, images[batch], True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    @jax.jit
    def trained(params, batches, rate):
        optimizer = optax.sgd(rate, momentum=0.9)

        def step(state, batch):
            value, gradients = jax.value_and_grad(loss)(state[0], batch)
            updates, momentum = optimizer.update(gradients, state[1])
            return (optax.apply_updates(state[0], updates), momentum), value

        return jax.lax.scan(step, (params, optimizer.init(params)), batches)[1][-50:].mean()

    found = []
    for seed in SEEDS:
        params = rj.models.init(model, images.shape[1:], jax.random.key(seed))["params"]
        orders = [np.random.default_rng((seed, epoch)).permutation(len(labels)) for epoch in range(STEPS)]
        batches = jnp.asarray(np.concatenate(orders)[: STEPS * 64].reshape(STEPS, 64))
        found.append([float(trained(params, batches, rate)) for rate in RATES])
    return np.nan_to_num(np.array(found), nan=np.inf)


def rounded(losses: np.ndarray) -> list[list[float | None]]:
    """As JSON has them."""
    return [[float(f"{each:.3g}") if np.isfinite(each) else None for each in rates] for rates in losses]


def perceptron_claims() -> list[Claim]:
    """At its best rate, which is none at the end of the range, the highway network with a falling bias has a loss below
    a tenth of the plain one's; and one below that of a bias of -2, by a larger factor with 50 layers than with 20: each
    in every seed.
    """
    losses = {f"{name}, {depth}": perceptron_losses(depth, *kind) for depth in DEPTHS for name, kind in KINDS.items()}
    best = {name: tried.min(1) for name, tried in losses.items()}
    inside = all(0 < i < len(RATES) - 1 for tried in losses.values() for i in tried.argmin(1))
    learns = (best["falling bias, 50"] < best["plain, 50"] / 10).all()
    gains = {depth: best[f"bias -2, {depth}"] / best[f"falling bias, {depth}"] for depth in DEPTHS}
    more = (gains[50] > 1).all() and (gains[50] > gains[20]).all()
    biases = " and ".join(f"{rj.models.half_open_bias(depth - 2):.2f} with {depth} layers" for depth in DEPTHS)
    numbers = {f"losses by seed and rate, {name}": rounded(tried) for name, tried in losses.items()}

    def listed(names):
        return "; ".join(f"{name} layers: " + ", ".join(f"{value:.3g}" for value in best[name]) for name in names)

    budget = f"{STEPS} iterations of 64 images, the best of {len(RATES)} rates from {RATES[-1]} to {RATES[0]}"
    same = {"data": "digits", "budget": budget, "unit": "loss", "seeds": len(SEEDS), "section": "section 2"}
    return [
        Claim("Fifty gated layers without batch norm learn what fifty plain ones do not.",
              "cites highway networks for it", listed(["plain, 50", "falling bias, 50"]), shown(inside and learns),
              numbers=numbers, **same),
        Claim(f"A gate bias that falls with depth, {biases}, gains on -2 the more, the deeper the network.",
              "does not say", listed([name for name in best if "bias" in name]), shown(inside and more), **same),
    ]  # fmt: skip


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
    """Coupled constants give other logits where these differ by a hundredth of the largest one."""
    same, missed = equalities()
    runs = {
        name: [experiment.digits(workdir, family, 20, seed) for seed in range(2)]
        for name, family in (("ResNet", "cifar_resnet"), ("highway", "cifar_highway"))
    }
    return [
        Claim("A highway network whose gates T and C are the constant 1 is the residual network.",
              "gates of identity shortcuts never close, and have no parameters",
              "logits and gradients equal to the bit" if same else "they differ", shown(same), section="section 2"),
        Claim("With coupled gates, C = 1 - T, the constants 0, 1/2 and 1 do not give the residual network.",
              "does not say", f"logits differ by {missed:.0%} of the largest one at least", shown(missed > 0.01),
              section="section 2"),
        *perceptron_claims(),
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
