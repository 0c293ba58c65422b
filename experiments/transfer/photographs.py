"""Photographs of three classes as folders, of the sample of ImageNet that has one photograph of every fifth class.

    python experiments/transfer/photographs.py DATA_DIR FOLDER [--seed=0] [--train=25]

DATA_DIR is where TFDS keeps its imagenet2012. ImageNet sorts its classes by kind, so that each of GROUPS is ranges of
labels. The seed draws which photographs of a group are for training; 10 others are for validation. They are written
with a shorter side of 160 pixels, so that decoding them is not what a comparison measures.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_jax.data.images import open_images

# Of the 35 to 155 photographs of each, so many are taken, evenly spaced: that is all there are of dogs.
GROUPS = {
    "dog": (range(151, 269),),  # Chihuahua to Mexican hairless
    "cold_blooded": (range(7), range(25, 80), range(107, 127), range(300, 330), range(389, 398)),  # fish, reptiles, …
    "thing": (range(398, 922),),  # abacus to toilet tissue
}
EACH, SHORTER_SIDE = 35, 160


def make_folder(data_dir: str | Path, folder: Path, seed: int = 0, train: int = 25) -> Path:
    """Writes folder/train/GROUP/*.jpg and folder/val/GROUP/*.jpg; returns the folder."""
    found = open_images("imagenet2012", data_dir)
    images = sorted(
        (image for split in (found.train, found.validation) for image in (split[i] for i in range(len(split)))),
        key=lambda image: image.label,
    )
    random = np.random.default_rng(seed)
    for name, ranges in GROUPS.items():
        members = [image for image in images if any(image.label in each for each in ranges)]
        chosen = random.permutation(np.linspace(0, len(members) - 1, EACH).astype(int))
        for place, index in enumerate(chosen[: train + 10]):
            path = folder / ("train" if place < train else "val") / name / f"{members[index].label:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(bytes(members[index].data))) as photograph:
                scale = SHORTER_SIDE / min(photograph.size)
                size = [max(round(side * scale), SHORTER_SIDE) for side in photograph.size]
                photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=95)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=25)
    arguments = parser.parse_args()
    print(make_folder(arguments.data_dir, arguments.folder, arguments.seed, arguments.train))
