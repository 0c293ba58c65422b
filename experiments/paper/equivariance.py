"""What shifts with an image and what stays: convolutions, strides, padding and global average pooling (section 3.3).

ResNet-20 on digits, three seeds, trained with zero padding and with circular padding. A circular shift by the total
stride, 4 pixels, moves the last map by one pixel, so that its average and the logits stay as they are, if padding is
circular. Zero padding tells where the border is, and a stride of 2 sees every second pixel: either breaks it. Pooling
has no such property for rotations and scales. Both forms are this one: about 100 CPU seconds beside the degradation
experiment's trainings.

Expect rounding where it is exact, and percents or tens of percents of the largest logit elsewhere.
"""

from functools import partial
from pathlib import Path

import experiment
import numpy as np
from experiment import Claim

import resnet_jax as rj
from resnet_jax import analysis

SEEDS, STRIDE = (0, 1, 2), 4
# Decided before the run, relative to the largest logit; and for the last claim in answers kept.
EXACT, BROKEN = 1e-6, 0.01
TURNED, SCALED = 30, 0.7


def measured(workdir, seed):
    """Changes of logits under shifts, and answers kept under shifts, rotations and scales."""
    test = rj.data.load("digits").test
    zeros = experiment.digits(workdir, "cifar_resnet", 20, seed).classifier
    wrap = experiment.digits(workdir, "cifar_resnet", 20, seed, model__padding="wrap").classifier
    exchanged = zeros.replace(model=zeros.model.clone(padding="wrap"))

    def change(classifier, shift):
        return analysis.equivariance_errors(classifier, test.images, shift)["logits"]

    def kept(transform):
        return 100 * analysis.transform_consistency(wrap, test.images, transform, batch_size=360).consistency

    return {
        "wrap_by_stride": change(wrap, (STRIDE, -STRIDE)),
        "trained_with_zeros_then_wrap_by_stride": change(exchanged, (STRIDE, -STRIDE)),
        "zeros_by_stride": change(zeros, (STRIDE, -STRIDE)),
        "wrap_by_one_pixel": change(wrap, (0, 1)),
        "kept_shift_by_stride": kept(partial(np.roll, shift=(STRIDE, -STRIDE), axis=(1, 2))),
        "kept_shift_by_one_pixel": kept(partial(np.roll, shift=1, axis=2)),
        "kept_rotation": kept(partial(analysis.rotate, degrees=TURNED)),
        "kept_scale": kept(partial(analysis.scale, factor=SCALED)),
    }


def small(workdir: Path) -> list[Claim]:
    """Four claims, on three seeds."""
    found = [measured(workdir, seed) for seed in SEEDS]
    numbers = {name: [float(f"{each[name]:.3g}") for each in found] for name in found[0]}
    about = {
        "seeds": len(SEEDS),
        "data": "digits, 360 test images",
        "budget": "400 iterations of 64 images, rate 0.03",
    }

    def claim(statement, names, worst, shown, unit="largest change / largest logit"):
        return Claim(
            statement=statement,
            paper="not in the paper: a property of its layers",
            section="section 3.3",
            ours=[worst(each) for each in zip(*(numbers[name] for name in names), strict=True)],
            state="shown" if shown else "not shown",
            unit=unit,
            numbers={name: numbers[name] for name in names},
            **about,
        )

    exact = ("wrap_by_stride", "trained_with_zeros_then_wrap_by_stride")
    shift, others = "kept_shift_by_stride", ("kept_rotation", "kept_scale", "kept_shift_by_one_pixel")
    return [
        claim(
            "With circular padding logits are invariant to shifts by the total stride, whatever padding trained them.",
            exact,
            max,
            max(max(numbers[name]) for name in exact) <= EXACT,
        ),
        claim(
            "Zero padding breaks the invariance to shifts by the total stride.",
            ("zeros_by_stride",),
            min,
            min(numbers["zeros_by_stride"]) >= BROKEN,
        ),
        claim(
            "Strides break the invariance to shifts that are no multiple of them, with circular padding too.",
            ("wrap_by_one_pixel",),
            min,
            min(numbers["wrap_by_one_pixel"]) >= BROKEN,
        ),
        claim(
            f"Pooling makes invariant to shifts by the stride, not to turning by {TURNED} degrees or scaling {SCALED}.",
            (*others, shift),
            min,
            min(numbers[shift]) == 100 and max(max(numbers[name]) for name in others[:2]) < 100,
            "% of answers kept, the least of all transforms",
        ),
    ]


if __name__ == "__main__":
    experiment.main(__file__)
