"""Section 4.2 and table 6, 1,202 layers: they train, their plain twin does not, and they err more than 110.

Small form: 1,202 layers with a quarter of the paper's widths (4, 8 and 16) on the digits, 200 iterations of 32 images
at a rate of 0.01 without augmentation, seed 0. Cost: see `cpu_seconds` of the results, on 2 CPU cores. The 199 equal
blocks of a stage are one scan, so that the program is no larger than that of 110 layers.

Full form: CIFAR-10 with the paper's recipe, 110 layers over seeds 0 to 4 and 1,202 layers once. Cost: not measured.
1,202 layers have 2.83e9 multiply-adds an image, 11 times those of 110.

Expect a falling loss here that does not reach what the rule wants: 200 iterations are too few for 600 blocks. Trials
with a rate of 0.1 after 60 of them, with the full widths, and with blocks that begin as identities did not either. The
plain twin diverges at once, which says nothing where the residual network does not train: a first rule called it shown.
That 1,202 layers train, and then err more than 110, is the full form's.
"""

import math
import statistics
from pathlib import Path

import experiment
import jax
import numpy as np
from experiment import Claim, Curves, shown, text

import resnet_jax as rj

STEPS, LAST = 200, 20


def losses(shortcut: str | None) -> list[float]:
    """The training loss at each step, as far as it is finite."""
    digits = rj.data.load("digits")
    mean = rj.data.per_pixel_mean(digits.train.images)
    preprocessing = rj.data.Preprocessing(jax.numpy.asarray(mean), jax.numpy.ones((1, 1, 1)))
    model = rj.models.ResNet((200, 200, 200), (4, 8, 16), False, "cifar", 10, shortcut)
    optimizer = rj.training.sgd(0.01, momentum=0.9, weight_decay=1e-4)
    state = rj.training.create_state(model, optimizer, seed=0, image_shape=digits.train.images.shape[1:])
    step, found = rj.training.make_train_step(model, optimizer, preprocessing=preprocessing), []
    for batch in digits.train.batches(32, STEPS):
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"].total / metrics["loss"].count))
        if not math.isfinite(found[-1]):
            return found[:-1]
    return found


def small(workdir: Path) -> list[Claim]:
    """Layers train where the mean loss of the last 20 steps is a tenth below 2.303, that of ten equal probabilities;
    a twin that does not says something only where the residual ones do.
    """
    del workdir
    found = {"ResNet": losses("A"), "plain": losses(None)}
    least = 0.9 * math.log(10)
    learnt = {name: len(each) == STEPS and np.mean(each[-LAST:]) < least for name, each in found.items()}
    ended = {
        name: f"{np.mean(each[-LAST:]):.2f}" if len(each) == STEPS else f"no number at step {len(each) + 1}"
        for name, each in found.items()
    }
    lines = {}
    for name, each in found.items():
        ends = range(10, len(each) + 1, 10)
        lines[name] = list(ends), [float(np.mean(each[end - 10 : end])) for end in ends]
    figure = Curves("iterations", "training loss", {name: line for name, line in lines.items() if line[0]})
    same = {"unit": "loss", "seeds": 1, "data": "digits, a quarter of the widths",
            "budget": f"{STEPS} iterations of 32 images, rate 0.01", "section": "section 4.2"}  # fmt: skip
    return [
        Claim("A residual network of 1,202 layers trains.", "no optimisation difficulty; training error below 0.1 %",
              ended["ResNet"], shown(learnt["ResNet"]), figure=figure, **same),
        Claim("Its plain twin does not, where the residual one does.", "plain-110 stays above 60 %, deeper ones were "
              "not tried", ended["plain"], shown(learnt["ResNet"] and not learnt["plain"]), **same),
        Claim("1,202 layers err more than 110.", "7.93 % beside 6.43 % (6.61 ± 0.16)", "", "not run",
              section="Table 6", command="python experiments/paper/thousand_layers.py --form=full"),
    ]  # fmt: skip


def full(workdir: Path) -> list[Claim]:
    """On CIFAR-10: 1,202 layers train where their training error ends below 0.1 %, and err more where their test error
    is above the mean of 110 layers by more than its standard deviation.
    """
    deep = experiment.cifar10(workdir, "cifar_resnet", 1202, seeds=1)[0]
    others = experiment.cifar10(workdir, "cifar_resnet", 110)
    training = 100 * [line["train_error"] for line in deep.metrics if "train_error" in line][-1]
    test, shallow = 100 * deep.result["test_error"], [100 * other.result["test_error"] for other in others]
    more = test - statistics.mean(shallow) > statistics.stdev(shallow)
    same = {
        "unit": "%",
        "data": experiment.cifar10_data()[1],
        "budget": "64,000 iterations of 128 images, rate 0.1 after 0.01",
    }
    return [
        Claim("A residual network of 1,202 layers trains.", "training error below 0.1 %", [training],
              shown(training < 0.1), seeds=1, section="section 4.2", **same),
        Claim("1,202 layers err more than 110.", "7.93 % beside 6.43 % (6.61 ± 0.16)",
              f"{text([test], ' %', 2)} beside {text(shallow, ' %', 2)}", shown(more), seeds=5, section="Table 6",
              **same),
    ]  # fmt: skip


if __name__ == "__main__":
    experiment.main(__file__)
