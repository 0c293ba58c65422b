"""Sheets of images and of what a network finds in them."""

import math
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Num

from resnet_jax.analysis.boxes import upsample
from resnet_jax.analysis.cam import ActivationMaps
from resnet_jax.analysis.plots import Picture, own_style, save_picture, short
from resnet_jax.errors import InputError, printable

_COLUMNS = 6


def plot_activation_maps(
    images: Num[Array | np.ndarray, "batch height width channels"],
    found: ActivationMaps,
    class_names: Sequence[str],
    path: str | os.PathLike[str] | None = None,
    boxes: Sequence[Sequence[int] | None] | None = None,
    title: str = "",
) -> Picture:
    """Draws images, and under each its map over it in grey: red speaks for the class, blue against it, white for
    nothing. Each cell of a map lies at the centre of what it sees, where the maps say where that is.

    All maps of a sheet have one scale, symmetric about zero, which is printed beside them in the unit of logits; a
    map that says nothing is white. Above each image stands the class and its logit.

    Args:
      images: RGB or grey, 0 to 255.
      found: their maps, as `class_activation_maps` or `grad_cam` gives them.
      class_names: in the order of the logits.
      path: where to write a PNG, if anywhere.
      boxes: (x0, y0, x1, y1) for each image, or None where there is none; see `largest_region`.
      title: above the sheet.

    Raises:
      InputError: there is no image, or not as many maps or boxes, or the sheet cannot be written.
    """
    shown = np.asarray(images)
    if shown.ndim != 4 or any(len(each) != len(shown) for each in (found.maps, shown if boxes is None else boxes)):
        raise InputError("each image needs a map of its own, and where there are boxes a box or None")
    count, height, width = shown.shape[:3]
    maps, logits = upsample(np.asarray(found.maps), height, width, grid=found.grid), np.asarray(found.logits)
    limit = float(np.abs(maps).max()) or 1.0
    columns = min(count, _COLUMNS)
    rows = 2 * math.ceil(count / columns)
    with own_style():
        figure = Picture(figsize=(1.6 * columns + 1.2, 1.75 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        drawn = None
        for i, (image, map_) in enumerate(zip(shown, maps, strict=True)):
            row, column = divmod(i, columns)
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            grey = pixels.mean(-1)
            above.imshow(pixels if pixels.shape[-1] == 3 else grey, cmap="gray", vmin=0, vmax=255)
            class_ = int(found.classes[i])
            text = f"{short(class_names[class_], 16)} {logits[i, class_]:.2f}"
            above.set_title(text, size="small", parse_math=False, usetex=False)
            below.imshow(grey, cmap="gray", vmin=0, vmax=255)
            drawn = below.imshow(map_, cmap="bwr", vmin=-limit, vmax=limit, alpha=0.65)
            if boxes is not None and (box := boxes[i]) is not None:
                x0, y0, x1, y1 = box
                for axes in (above, below):
                    corners = [x0 - 0.5, x1 + 0.5, x1 + 0.5, x0 - 0.5, x0 - 0.5]
                    axes.plot(corners, [y0 - 0.5, y0 - 0.5, y1 + 0.5, y1 + 0.5, y0 - 0.5], color="lime", lw=1.5)
                    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        if drawn is not None:
            figure.colorbar(drawn, ax=grid, label="map (in the unit of logits)", shrink=0.8)
        if title:
            figure.suptitle(printable(title), size="medium", parse_math=False, usetex=False)
        save_picture(figure, path)
    return figure
