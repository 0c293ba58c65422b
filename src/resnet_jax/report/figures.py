"""Figures of a report, as SVG: the same bytes for the same numbers."""

import math
from collections.abc import Sequence
from typing import Any

from resnet_jax.analysis.plots import Picture, own_style, short
from resnet_jax.report.claims import Curves

# Markers are drawn where a line has few points, and names of bars where there are few bars.
_FEW_POINTS, _FEW_BARS = 30, 12

# What lines of one thing are told apart by, the last part of their names, and their styles where they are not bold.
_PARTS = {"training": "--", "test": "", "paper": ":", "ours": ""}


def draw(curves: Curves) -> bytes:
    """An SVG of lines or bars, 7 x 3.6 inches; values that are not finite are left out."""
    with own_style():
        figure = Picture(figsize=(7, 3.6), layout="constrained")
        axes: Any = figure.subplots()
        groups = list(dict.fromkeys(map(_group, curves.lines)))
        paired = len(groups) < len(curves.lines)
        width = 0.8 / max(1, len(curves.lines))
        for i, (name, (x, y)) in enumerate(curves.lines.items()):
            points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
            x, y = [a for a, _ in points], [b for _, b in points]
            color = f"C{groups.index(_group(name)) % 10}"
            label = short(name, 60)
            if curves.bars:
                shifted = [a + (i - (len(curves.lines) - 1) / 2) * width for a in x]
                pale = paired and "ls" in _style(name, x)
                axes.bar(shifted, y, width, color=color, alpha=0.45 if pale else 1, label=label)
            else:
                axes.plot(x, y, label=label, color=color, **_style(name, x))
        if curves.bars and (names := sorted({a for x, _ in curves.lines.values() for a in x})):
            axes.set_xticks(names if len(names) <= 3 * _FEW_BARS else names[:: math.ceil(len(names) / 20)])
        axes.set_yscale("log" if curves.log_y else "linear")
        axes.set_xlabel(curves.x, parse_math=False)
        axes.set_ylabel(curves.y, parse_math=False)
        axes.grid(alpha=0.3)
        if len(curves.lines) > 1:
            legend = axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
            for text in legend.get_texts():
                text.set(parse_math=False, usetex=False)
        return figure.as_svg()


def _group(name: str) -> str:
    """The lines of one group have one color."""
    group, _, part = name.rpartition(", ")
    return group if group and part in _PARTS else name


def _style(name: str, x: Sequence[float]) -> dict[str, Any]:
    thin = _PARTS.get(name.rpartition(", ")[2])
    style: dict[str, Any] = {"ls": thin, "lw": 1.2} if thin else {"lw": 2}
    return style | ({"marker": "o", "markersize": 3.5} if len(x) <= _FEW_POINTS else {})
