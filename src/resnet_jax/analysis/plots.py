"""Pictures of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def plot_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | None = None) -> Figure:
    """Draws errors and losses against iterations, dashed in training and bold in evaluation, as in figure 6.

    Args:
      runs: the lines of metrics.jsonl of each run, by name.
      path: where to write a PNG, if anywhere.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    errors, losses = figure.subplots(1, 2)
    for i, (name, lines) in enumerate(runs.items()):
        for axes, quantity, unit in ((errors, "error", 100), (losses, "loss", 1)):
            for split, style in (("train", "--"), ("validation", "-"), ("test", "-")):
                points = [
                    (line["step"], unit * line[f"{split}_{quantity}"])
                    for line in lines
                    if f"{split}_{quantity}" in line
                ]
                if points:
                    width = 1 if split == "train" else 2
                    axes.plot(
                        *zip(*points, strict=True), style, color=f"C{i}", linewidth=width, label=f"{name}, {split}"
                    )
    errors.set(xlabel="iterations", ylabel="error (%)", ylim=(0, None))
    losses.set(xlabel="iterations", ylabel="cross-entropy", yscale="log")
    errors.legend()
    for axes in (errors, losses):
        axes.grid(alpha=0.3)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def plot_confusion(counts: np.ndarray, class_names: Sequence[str], path: Path | None = None) -> Figure:
    """Draws how often each class is taken for each class, as the share of its images.

    Args:
      counts: images, (classes, classes), a row for each true class and a column for each predicted one.
      class_names: in the same order.
      path: where to write a PNG, if anywhere.
    """
    classes = len(class_names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.35 * classes
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(classes), class_names, rotation=90)
    axes.set_yticks(range(classes), class_names)
    for row, column in np.argwhere(counts).tolist():
        dark = shares[row, column] > 0.5
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", size=7, color="white" if dark else "black"
        )
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
