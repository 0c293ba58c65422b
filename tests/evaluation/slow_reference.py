"""The evaluation protocols of the paper, written down again for one image at a time: Pillow resizes the whole image,
NumPy averages in float64, and windows are loops.
"""

import io

import jax
import numpy as np
from PIL import Image


def opened(photograph):
    return Image.open(io.BytesIO(photograph.data)).convert("RGB")


def resized(image, resize_size):
    """The whole image, its longer side rounded down, as torchvision does."""
    width, height = image.size
    if width < height:
        size = (resize_size, resize_size * height // width)
    else:
        size = (resize_size * width // height, resize_size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def center_crop(whole, side):
    top, left = round((whole.shape[0] - side) / 2.0), round((whole.shape[1] - side) / 2.0)
    return whole[top : top + side, left : left + side]


def five_crops(whole, side):
    return [
        whole[:side, :side],
        whole[:side, -side:],
        whole[-side:, :side],
        whole[-side:, -side:],
        center_crop(whole, side),
    ]


def dense_image(image, scale):
    """The whole image; the longer side is the multiple of 32 that is nearest to what the aspect asks for, among those
    from 1 to 4 times the shorter side.
    """
    width, height = image.size
    wanted = scale * max(width, height) / min(width, height)
    allowed = [scale] + [length for length in range(32, 4 * scale + 1, 32) if length > scale]
    longer = min(allowed, key=lambda length: abs(length - wanted))
    size = (scale, longer) if width < height else (longer, scale)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def softmax(logits):
    exponentials = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exponentials / exponentials.sum()


class Network:
    """A trained network as functions of one uint8 image."""

    def __init__(self, trained):
        self.trained = trained
        self.mean = np.asarray(trained.preprocessing.mean, np.float64)
        self.std = np.asarray(trained.preprocessing.std, np.float64)
        fc = trained.variables["params"]["fc"]
        self.kernel, self.bias = np.asarray(fc["kernel"], np.float64), np.asarray(fc["bias"], np.float64)
        variables = jax.device_get(trained.variables)
        self.forward = jax.jit(lambda images: trained.model.apply(variables, images, train=False))
        self.maps = jax.jit(lambda images: trained.model.apply(variables, images, train=False, method="stages"))

    def prepared(self, pixels):
        if self.trained.preprocessing.channel_order == "bgr":
            pixels = pixels[:, :, ::-1]
        mean = self.mean if self.mean.shape == pixels.shape else self.mean.mean(axis=(0, 1), keepdims=True)
        return ((pixels - mean) / self.std).astype(np.float32)

    def center(self, crop):
        logits = self.forward(self.prepared(crop)[np.newaxis])
        return softmax(logits[0])

    def ten_crop(self, crops):
        total = 0
        prepared = [self.prepared(crop) for crop in crops]
        logits = self.forward(np.stack([*prepared, *(np.fliplr(each) for each in prepared)]))
        for row in np.asarray(logits):
            total = total + softmax(row)
        return total / 10

    def dense(self, images, window):
        """The means over images of several scales and their mirror images, with logits averaged over the map, and with
        probabilities averaged.
        """
        of_logits, of_probabilities = [], []
        for pixels in images:
            prepared = self.prepared(pixels)
            maps = self.maps(np.stack([prepared, np.fliplr(prepared)]))
            for features in np.asarray(maps["stage4"], np.float64):
                tall, wide = min(window, features.shape[0]), min(window, features.shape[1])
                places = []
                for top in range(features.shape[0] - tall + 1):
                    for left in range(features.shape[1] - wide + 1):
                        pooled = features[top : top + tall, left : left + wide].mean(axis=(0, 1))
                        places.append(pooled @ self.kernel + self.bias)
                of_logits.append(softmax(np.mean(places, axis=0)))
                of_probabilities.append(np.mean([softmax(place) for place in places], axis=0))
        return np.mean(of_logits, axis=0), np.mean(of_probabilities, axis=0)
