"""Table 4: single models on ImageNet, fully convolutional at five scales.

Small form: none would be honest, since nothing smaller than ImageNet tells these errors apart; its claims are not run,
each with its command.

Full form: the networks of `table3.py`, scored at shorter sides of 224, 256, 384, 480 and 640 pixels. Cost: not
measured; a square photograph and its mirror image at the five scales cost 36 times one window of 224 x 224.

Expected: errors 2 to 3 points below those of ten crops, in the same order.
"""

from pathlib import Path

import experiment
import imagenet
from experiment import Claim

NAMES = ("ResNet-34 B", "ResNet-34 C", "ResNet-50", "ResNet-101", "ResNet-152")


def small(workdir: Path) -> list[Claim]:
    """Nothing is run."""
    return imagenet.table_claims(4, NAMES, "dense", " --scales=224,256,384,480,640")


def full(workdir: Path) -> list[Claim]:
    """On ImageNet."""
    return imagenet.table_claims(4, NAMES, "dense", workdir=workdir)


if __name__ == "__main__":
    experiment.main(__file__)
