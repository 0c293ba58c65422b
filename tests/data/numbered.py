"""Photographs in memory whose pixels hold (photograph, column, row), so that a window tells where it comes from."""

from dataclasses import dataclass

import numpy as np

from resnet_jax.data.encoded import EncodedImage

COUNT, HEIGHT, WIDTH = 20, 34, 36
DAMAGED = b"no image"


@dataclass(frozen=True)
class Listed:
    """Photographs in memory; the label of each is ten times its index."""

    data: tuple

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return EncodedImage(self.data[index], 10 * index, f"photograph {index}")


def coordinates(index, height=HEIGHT, width=WIDTH):
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[...] = np.stack(np.broadcast_arrays(index, np.arange(width)[None], np.arange(height)[:, None]), -1)
    return pixels


def whole(count=COUNT):
    return Listed(tuple(coordinates(index) for index in range(count)))


def spoiled(*indices, count=COUNT):
    return Listed(tuple(DAMAGED if index in indices else coordinates(index) for index in range(count)))
