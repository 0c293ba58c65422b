import numpy as np

from resnet_jax.analysis import ActivationMaps, plot_activation_maps
from small_networks import random_images


def test_a_sheet_says_class_logit_and_scale(tmp_path):
    images = random_images(7, (6, 6, 3))
    maps = np.zeros((7, 2, 2), np.float32)
    maps[0], maps[6, 0, 0] = [[1, 0], [0, -4]], 2
    logits = np.zeros((7, 2), np.float32)
    logits[:, 1] = np.arange(7) / 4
    boxes = [(0, 0, 3, 3), *[None] * 6]
    found = ActivationMaps(maps, np.ones(7, np.int32), logits)
    figure = plot_activation_maps(images, found, ["cat", "$dog$"], tmp_path / "maps.png", boxes, "two \x1b classes")
    *panels, bar = figure.axes
    titles = [axes.get_title() for axes in panels if axes.get_title()]
    assert titles == [f"$dog$ {i / 4:.2f}" for i in range(7)]
    assert bar.get_ylabel() == "map (in the unit of logits)"
    overlays = [axes.images[1] for axes in panels if len(axes.images) == 2]
    assert len(overlays) == 7
    # One scale for all, symmetric about zero.
    assert {each.get_clim() for each in overlays} == {(-4.0, 4.0)}
    assert overlays[0].get_array().shape == (6, 6)
    assert [len(axes.get_lines()) for axes in panels].count(1) == 2  # the box, on the image and on its map
    assert figure.get_suptitle() == "two \\x1b classes"
    assert (tmp_path / "maps.png").read_bytes()[:4] == b"\x89PNG"


def test_maps_of_nothing_can_be_drawn():
    found = ActivationMaps(np.zeros((1, 2, 2)), np.zeros(1, int), np.zeros((1, 1)))
    figure = plot_activation_maps(random_images(1), found, ["digit"])
    assert figure.axes[1].images[1].get_clim() == (-1.0, 1.0)
