"""Pictures of runs.

Names of runs and classes are drawn as they are: never as formulas between dollar signs, nor by TeX. A picture is the
same whatever matplotlibrc or `rcParams` says, and leaves those as they were.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from resnet_jax.errors import printable
from resnet_jax.files import expanded, write_whole

# A longer name would leave no space for the picture.
_MOST_LETTERS = 30


def plot_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str] | None = None) -> Figure:
    """Draws errors and losses against iterations, dashed in training and bold in evaluation, as in figure 6.

    Args:
      runs: the lines of metrics.jsonl of each run, by name.
      path: where to write a PNG, if anywhere.

    Raises:
      InputError: it cannot be written.
    """
    with _own_style():
        figure = Figure(figsize=(10, 4), layout="constrained")
        errors, losses = figure.subplots(1, 2)
        drawn: list[tuple[str, Any]] = []
        for i, (name, lines) in enumerate(runs.items()):
            for axes, quantity, unit in ((errors, "error", 100), (losses, "loss", 1)):
                for split, style in (("train", "--"), ("validation", "-"), ("test", "-")):
                    field = f"{split}_{quantity}"
                    points = [(line["step"], unit * line[field]) for line in lines if field in line]
                    if points:
                        width = 1 if split == "train" else 2
                        (curve,) = axes.plot(*zip(*points, strict=True), style, color=f"C{i}", linewidth=width)
                        if axes is errors:
                            drawn.append((f"{_short(name)}, {split}", curve))
        errors.set(xlabel="iterations", ylabel="error (%)", ylim=(0, None))
        losses.set(xlabel="iterations", ylabel="cross-entropy", yscale="log")
        if drawn:
            # Matplotlib leaves labels out that begin with "_": the names are put in afterwards.
            legend = errors.legend([curve for _, curve in drawn], [str(i) for i in range(len(drawn))])
            for text, (name, _) in zip(legend.get_texts(), drawn, strict=True):
                text.set(text=name, parse_math=False, usetex=False)
        for axes in (errors, losses):
            axes.grid(alpha=0.3)
        _save(figure, path)
    return figure


def plot_confusion(
    counts: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draws how often each class is taken for each class, as the share of its images.

    Args:
      counts: images, (classes, classes), a row for each true class and a column for each predicted one.
      class_names: in the same order.
      path: where to write a PNG, if anywhere.

    Raises:
      InputError: it cannot be written.
    """
    classes = len(class_names)
    names = [_short(name) for name in class_names]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Inches; the margins hold names of a dozen letters.
    size = 2.5 + 0.35 * classes + 0.08 * max(0, max(map(len, names)) - 12)
    with _own_style():
        figure = Figure(figsize=(size, size), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set(parse_math=False, usetex=False)
        for row, column in np.argwhere(counts).tolist():
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", size=7, color=color)
        _save(figure, path)
    return figure


@contextlib.contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib's own settings, and no word about letters that its font lacks: boxes stand for them."""
    with warnings.catch_warnings(), matplotlib.style.context("default"):
        warnings.simplefilter("ignore")
        yield


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"


def _save(figure: Figure, path: str | os.PathLike[str] | None) -> None:
    if path is not None:
        data = io.BytesIO()
        figure.savefig(data, dpi=120, format="png")
        write_whole(expanded(path), data.getvalue())
