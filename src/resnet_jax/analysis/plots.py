"""Pictures of runs.

Names of runs and classes are drawn as they are: never as formulas between dollar signs, nor by TeX. A picture is the
same whatever matplotlibrc or `rcParams` says, and leaves those as they were.
"""

import contextlib
import io
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from resnet_jax.errors import InputError, printable
from resnet_jax.files import expanded, write_whole

Runs = Mapping[str, Sequence[Mapping[str, Any]]]

# What is known of many runs cannot be written beside their curves, and lines for all their drops would hide them.
_MOST_VALUES, _MOST_DROPS = 20, 8


def plot_curves(runs: Runs, path: str | os.PathLike[str] | None = None, title: str = "") -> Figure:
    """Draws errors and losses against iterations: a colour for each run, dashed in training and bold in evaluation.

    Both axes are logarithmic, with a place for zero, so that the end of a training can be read. The last value of each
    evaluation stands beside its curve; thin vertical lines are where the learning rate drops, or where it does so
    between two lines of metrics, at the first of them.

    Args:
      runs: the lines of metrics.jsonl of each run, by name.
      path: where to write a PNG, if anywhere.
      title: above the picture.

    Raises:
      InputError: the runs have no names, or the picture cannot be written.
    """
    if not isinstance(runs, Mapping):
        raise InputError("the runs are no lines of metrics by name, such as {'mine': run.metrics}")
    fields = {field for lines in runs.values() for line in lines for field in line}
    # A task of one's own may have no errors.
    quantities = [each for each in ("error", "loss") if each == "loss" or any(f.endswith("_error") for f in fields)]
    splits = [each for each in ("train", "validation", "test") if {f"{each}_error", f"{each}_loss"} & fields]
    styles: dict[str, Any] = {"train": "--", "test": "-", "validation": "-." if "test" in splits else "-"}
    drops = sorted({step for lines in runs.values() for step in _drops(lines)})
    drops = drops if len(drops) <= _MOST_DROPS else []
    with own_style():
        colors = [f"C{i}" for i in range(10)]
        if len(runs) > 10:
            colors = [to_hex(each) for each in matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))]
        entries = [(split, Line2D([], [], color="0.3", ls=styles[split], lw=_width(split))) for split in splits]
        entries += [("the rate drops", Line2D([], [], color="0.6", ls=":", lw=0.8))] if drops else []
        if len(runs) > 1:
            entries += [(name, Line2D([], [], color=each, lw=2)) for name, each in zip(runs, colors, strict=False)]
        names = [short(name, 60) for name, _ in entries]
        columns = max(1, min(len(names), 100 // (max(map(len, names), default=0) + 6)))
        size = 5.0 * len(quantities), 4 + 0.22 * math.ceil(len(names) / columns)
        figure = Picture(figsize=size, layout="constrained")
        for axes, quantity in zip(np.ravel(figure.subplots(1, len(quantities))), quantities, strict=True):
            unit = 100 if quantity == "error" else 1
            ends: list[tuple[float, float, str, bool]] = []
            for lines, color in zip(runs.values(), colors, strict=False):
                for split in splits:
                    points = _points(lines, f"{split}_{quantity}", unit)
                    few: Any = {"marker": "o", "markersize": 4} if len(points) <= 12 else {}
                    x, y = [step for step, _ in points], [value for _, value in points]
                    axes.plot(x, y, ls=styles[split], color=color, lw=_width(split), **few)
                    if points and (split != "train" or len(runs) == 1):
                        ends.append((x[-1], y[-1], color, split != "train"))
            _set_scale(axes)
            _write_ends(axes, ends, " %" if quantity == "error" else "")
            for step in drops:
                axes.axvline(step, color="0.6", lw=0.8, ls=":", zorder=0)
            axes.set(xlabel="iterations", ylabel={"error": "error (%)", "loss": "loss"}[quantity], xlim=(0, None))
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.grid(alpha=0.3)
        if entries:
            # Matplotlib leaves labels out that begin with "_": the names are put in afterwards.
            handles, space = [handle for _, handle in entries], ["x" * len(name) for name in names]
            legend = figure.legend(handles, space, loc="outside lower center", ncols=columns)
            for text, name in zip(legend.get_texts(), names, strict=True):
                text.set(text=name, parse_math=False, usetex=False)
        if title:
            figure.suptitle(printable(title), parse_math=False, usetex=False)
        save_picture(figure, path)
    return figure


def _width(split: str) -> int:
    return 1 if split == "train" else 2


def plot_confusion(
    counts: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str] | None = None, title: str = ""
) -> Figure:
    """Draws how often each class is taken for each class, as the share of its images.

    Args:
      counts: images, (classes, classes), a row for each true class and a column for each predicted one.
      class_names: in the same order.
      path: where to write a PNG, if anywhere.
      title: above the picture; by default how many of how many images are wrong.

    Raises:
      InputError: it cannot be written.
    """
    classes, images, wrong = len(class_names), int(counts.sum()), int(counts.sum() - np.trace(counts))
    names = [short(name, 30) for name in class_names]
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Inches; the margins hold names of a dozen letters.
    size = 2.5 + 0.35 * classes + 0.08 * max(0, max(map(len, names)) - 12)
    title = title or f"{wrong:,} of {images:,} images wrong ({wrong / max(images, 1):.2%})"
    with own_style():
        figure = Picture(figsize=(size + 0.8, size), layout="constrained")
        axes = figure.subplots()
        drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set(parse_math=False, usetex=False)
        for row, column in np.argwhere(counts).tolist():
            color = "white" if shares[row, column] > 50 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", size=7, color=color)
        figure.colorbar(drawn, label="share of the true class (%)", shrink=0.8, aspect=max(20, 2 * classes))
        figure.suptitle(printable(title), size="medium", parse_math=False, usetex=False)
        save_picture(figure, path)
    return figure


def _points(lines: Sequence[Mapping[str, Any]], field: str, unit: float) -> list[tuple[float, float]]:
    return [(line["step"], unit * line[field]) for line in lines if math.isfinite(line.get(field, math.nan))]


def _drops(lines: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """The steps behind which the rate is at most 0.6 of what it was, and had not been falling before, as a cosine.

    A line has the rate of the update that led to its step: a drop after step 600 shows in the next line, and its place
    is that of this one. Of a drop that no line falls on, only the lines before and after it are known.
    """
    rates = [(line["step"], line["learning_rate"]) for line in lines if line.get("learning_rate")]
    before = math.inf
    for (step, old), (_, new) in itertools.pairwise(rates):
        if new <= 0.6 * old and before >= 0.95:
            yield step
        before = new / old


def _set_scale(axes: Axes) -> None:
    """A logarithmic axis of what is drawn; zeros lie below all other values, with the axis linear between."""
    values = np.concatenate([np.zeros(0), *(np.asarray(line.get_ydata(), float) for line in axes.get_lines())])
    positive = values[values > 0]
    if not len(positive):
        axes.set_ylim(-0.05, 1)  # errors of zero, or nothing
        return
    low, high = positive.min(), positive.max()
    zero = bool((values <= 0).any())
    if zero:
        axes.set_yscale("symlog", linthresh=low, linscale=0.3)
        axes.set_ylim(-0.15 * low, 1.25 * high)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, 1.25 * high)
    axes.yaxis.set_major_locator(FixedLocator([0.0] * zero + _ticks(low / 1.25, 1.25 * high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _ticks(low: float, high: float) -> list[float]:
    """About half a dozen round numbers, equally far from each other where none is many times another one."""
    found = list(map(float, MaxNLocator(5).tick_values(low, high)))
    if high > 5 * low:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            found = [part * 10.0**decade for decade in decades for part in parts]
            if sum(low <= tick <= high for tick in found) <= 8:
                break
    return [tick for tick in found if low <= tick <= high]


def _write_ends(axes: Axes, ends: Sequence[tuple[float, float, Any, bool]], unit: str) -> None:
    """Writes the last values to the right of the axes, at their heights but for what would lie over each other."""
    if len(ends) > _MOST_VALUES:
        return
    scale = axes.transScale + axes.transLimits
    heights = [float(scale.transform((step, value))[1]) for step, value, *_ in ends]
    order = sorted(range(len(ends)), key=lambda i: heights[i])
    places, gap = dict(enumerate(heights)), 0.05
    for lower, upper in itertools.pairwise(order):
        places[upper] = max(places[upper], places[lower] + gap)
    # What has been pushed out at the top comes down again.
    top = 1.0
    for i in reversed(order):
        places[i] = top = min(places[i], top)
        top -= gap
    for i, (_, value, color, bold) in enumerate(ends):
        text = f"{value:.2f}" if unit else f"{value:.3g}"
        axes.annotate(
            text + unit,
            (1, places[i]),
            (4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=color,
            size="small",
            weight="bold" if bold else "normal",
        )


class Picture(Figure):
    """A notebook shows it, also where nobody has imported pyplot."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        with own_style():
            self.savefig(data, dpi=120, format="png")
        return data.getvalue()

    def as_svg(self) -> bytes:
        """The same bytes for the same picture: without a date, and with names that are no random numbers."""
        data = io.BytesIO()
        with own_style(), matplotlib.rc_context({"svg.hashsalt": "resnet_jax"}):
            self.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
        return data.getvalue()


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib's own settings, and no word about letters that its font lacks: boxes stand for them."""
    with warnings.catch_warnings(), matplotlib.style.context("default"):
        warnings.simplefilter("ignore")
        yield


def short(name: str, most: int) -> str:
    """A name without its middle, where it is long: points of a sweep differ at both ends."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[1 - most // 2 :]}"


def save_picture(figure: Picture, path: str | os.PathLike[str] | None) -> None:
    """Writes a PNG, if anywhere."""
    if path is not None:
        write_whole(expanded(path, remote=True), figure._repr_png_())
