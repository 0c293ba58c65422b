"""What shifts with an image and what stays: convolutions, strides, padding and global average pooling (section 3.3).

ResNet-20 on digits, three seeds, trained with zero padding and with circular padding. A circular shift by the total
stride, 4 pixels, moves the last map by one pixel, so that its average and the logits stay as they are, if padding is
circular. Zero padding tells where the border is, and a stride of 2 sees every second pixel: either breaks it. Pooling
has no such property for rotations and scales. It has one form: about 180 CPU seconds beside the degradation
experiment's trainings.

Expect rounding where it is exact, and tens of percents of the largest logit elsewhere. A first rule for what breaks,
1 % of the largest logit and one changed answer, could hardly fail: those below were written after its run.
"""

from functools import partial
from pathlib import Path

import experiment
import numpy as np
from experiment import Claim, shown

import resnet_jax as rj
from resnet_jax import analysis

SEEDS, STRIDE = (0, 1, 2), 4
# Relative to the largest logit; and the answers kept, in percent, below which a network is called not invariant.
EXACT, BROKEN, KEPT = 1e-6, 0.1, 90
TURNED, SCALED = 30, 0.7


def measured(workdir, seed):
    """Changes of logits under shifts, and answers kept under shifts, rotations and scales."""
    test = rj.data.load("digits").test
    zeros = experiment.digits(workdir, "cifar_resnet", 20, seed).classifier
    wrap = experiment.digits(workdir, "cifar_resnet", 20, seed, model__padding="wrap").classifier
    # The mean image that is subtracted does not shift with an image: shifts are of what is left.
    without = wrap.replace(preprocessing=rj.data.Preprocessing(np.zeros((1, 1, 1), np.float32)))
    inputs = np.asarray(wrap.preprocessing(test.images))
    exchanged = zeros.replace(model=zeros.model.clone(padding="wrap"))

    def change(classifier, shift):
        return analysis.equivariance_errors(classifier, test.images, shift)["logits"]

    def kept(transform, classifier=wrap, images=test.images):
        return 100 * analysis.transform_consistency(classifier, images, transform, batch_size=360).consistency

    def kept_shifted(shift):
        return kept(partial(np.roll, shift=shift, axis=(1, 2)), without, inputs)

    return {
        "accuracy": 100 * float((np.argmax(wrap(test.images), 1) == test.labels).mean()),
        "wrap_by_stride": change(wrap, (STRIDE, -STRIDE)),
        "trained_with_zeros_then_wrap_by_stride": change(exchanged, (STRIDE, -STRIDE)),
        "zeros_by_stride": change(zeros, (STRIDE, -STRIDE)),
        "wrap_by_one_pixel": change(wrap, (0, 1)),
        "kept_shift_by_stride": kept_shifted((STRIDE, -STRIDE)),
        "kept_shift_by_one_pixel": kept_shifted((0, 1)),
        "kept_rotation": kept(partial(analysis.rotate, degrees=TURNED)),
        "kept_scale": kept(partial(analysis.scale, factor=SCALED)),
    }


def small(workdir: Path) -> list[Claim]:
    """Four claims, on three seeds."""
    found = [measured(workdir, seed) for seed in SEEDS]
    numbers = {name: [float(f"{each[name]:.3g}") for each in found] for name in found[0]}
    about = {
        "section": "section 3.3",
        "seeds": len(SEEDS),
        "data": "digits, 360 test images",
        "budget": "400 iterations of 64 images, rate 0.03",
    }

    def claim(statement, names, ours, holds, unit=""):
        kept = {name: numbers[name] for name in names}
        return Claim(
            statement, "not in the paper: a property of its layers", ours, shown(holds), unit, numbers=kept, **about
        )

    exact = ("wrap_by_stride", "trained_with_zeros_then_wrap_by_stride")
    shift, others = "kept_shift_by_stride", ("kept_shift_by_one_pixel", "kept_rotation", "kept_scale")
    largest = max(max(numbers[name]) for name in exact)
    broken = [[100 * each for each in numbers[name]] for name in ("zeros_by_stride", "wrap_by_one_pixel")]
    return [
        claim(
            "With circular padding logits are invariant to shifts by the total stride, whatever padding trained them.",
            exact,
            f"changes of at most {largest:.1g} of the largest logit",
            largest <= EXACT,
        ),
        claim(
            "Zero padding breaks the invariance to shifts by the total stride.",
            ("zeros_by_stride",),
            broken[0],
            min(broken[0]) >= 100 * BROKEN,
            "% of the largest logit",
        ),
        claim(
            "Strides break the invariance to shifts that are no multiple of them, with circular padding too.",
            ("wrap_by_one_pixel",),
            broken[1],
            min(broken[1]) >= 100 * BROKEN,
            "% of the largest logit",
        ),
        claim(
            f"Pooling makes invariant to shifts by the stride, not to turns of {TURNED} degrees or scales of {SCALED}.",
            ("accuracy", shift, *others),
            f"answers kept: {numbers[shift]}, turned {numbers[others[1]]}, scaled {numbers[others[2]]}",
            min(numbers[shift]) == 100 and max(max(numbers[name]) for name in others[1:]) < KEPT,
            "%",
        ),
    ]


if __name__ == "__main__":
    experiment.main(__file__)
