"""Images to write into files, and what Pillow reads out of them."""

import io

import numpy as np
from PIL import Image


def encoded(image, file_format, **options):
    """The bytes of an image file, of pixels or of a Pillow image."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pillows(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width):
    """A different ramp in each channel, which compression leaves nearly as it is and a shift does not."""
    down, across = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    ramps = np.broadcast_arrays(down + 0 * across, across + 0 * down, (down + 255 - across) / 2)
    return np.rint(np.stack(ramps, -1)).astype(np.uint8)


def exif(orientation, **more):
    """Options of `encoded` for a photograph that is stored turned."""
    tags = Image.Exif()
    tags[274] = orientation
    return {"exif": tags, **more}
