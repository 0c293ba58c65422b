"""Table 3: shortcuts A, B and C, and depths of 34 to 152 layers, on ImageNet with ten crops.

Small form: none would be honest, since nothing smaller than ImageNet tells these errors apart; its claims are not run,
each with its command.

Full form: seven trainings of the config `imagenet`, seed 0, scored with ten crops. VGG-16's row needs its own recipe,
which the paper does not give, and is not among them. Cost: not measured; 3.6 to 11.3 billion multiply-adds an image
make 1.7e18 to 5.2e18 multiply-adds a training.

Expected: B a little below A and C a little below B, by half a point in the paper; each depth below the one before.
"""

from pathlib import Path

import experiment
import imagenet
from experiment import Claim

NAMES = ("plain-34", "ResNet-34 A", "ResNet-34 B", "ResNet-34 C", "ResNet-50", "ResNet-101", "ResNet-152")


def small(workdir: Path) -> list[Claim]:
    """Nothing is run."""
    return imagenet.table_claims(3, NAMES, "ten_crop")


def full(workdir: Path) -> list[Claim]:
    """On ImageNet."""
    return imagenet.table_claims(3, NAMES, "ten_crop", workdir=workdir)


if __name__ == "__main__":
    experiment.main(__file__)
