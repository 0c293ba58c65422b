"""Pictures of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
