import io
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Annotation
from PIL import Image

from resnet_jax.analysis.plots import plot_confusion, plot_curves
from resnet_jax.training import piecewise

NAMES = ["$x$", "_hidden", "two\nlines", "caf\udce9", "日本語", "$\\frac{$", "a_b^c", "100 %", "\\$x$", "🤖", "__"]
SHOWN = ["$x$", "_hidden", "two\\nlines", "caf\\udce9", *NAMES[4:]]


def lines(name):
    return [{"step": step, "train_error": 0.5, "test_error": 0.25, "train_loss": 0.5} for step in (1, len(name) + 2)]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


@pytest.fixture(autouse=True)
def settings():
    """What matplotlib is set to is the same after a picture as before it."""
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def test_names_in_a_legend_are_drawn_as_they_are(tmp_path):
    figure = plot_curves({name: lines(name) for name in NAMES}, tmp_path / "$x$.png")
    assert legend(figure) == ["train", "test", *SHOWN]
    assert (tmp_path / "$x$.png").read_bytes()[:4] == b"\x89PNG"


def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    figure = plot_confusion(np.eye(len(NAMES), dtype=int), NAMES, str(tmp_path / "confusion.png"))
    assert figure.get_suptitle() == "0 of 11 images wrong (0.00%)"
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert [text.get_text() for text in axis.get_majorticklabels()] == SHOWN
    assert (tmp_path / "confusion.png").exists()


def test_a_confusion_matrix_says_what_its_colours_are():
    figure = plot_confusion(np.array([[30, 10], [0, 0]]), ["a", "b"])
    assert figure.get_suptitle() == "10 of 40 images wrong (25.00%)"
    axes, bar = figure.axes
    assert bar.get_ylabel() == "share of the true class (%)"
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), [[75, 25], [0, 0]])
    assert [text.get_text() for text in axes.texts] == ["30", "10"]


def run(values, every=10, rates=None, split="test"):
    """The lines of a run whose training error and loss are such values, with a score at every other line."""
    found = []
    for i, value in enumerate(values):
        line = {"step": every * (i + 1), "train_error": value, "train_loss": 2 * value}
        line |= {"learning_rate": rates[i]} if rates else {}
        found.append(line | ({f"{split}_error": value / 2, f"{split}_loss": value} if i % 2 else {}))
    return found


def curves(axes):
    """Of each curve that has points: its values, style, colour and width."""
    lines = [line for line in axes.get_lines() if np.size(line.get_xdata()) and line.get_zorder() != 0]
    return [(list(line.get_ydata()), line.get_linestyle(), line.get_color(), line.get_linewidth()) for line in lines]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_colour_is_a_run_and_a_style_a_split():
    figure = plot_curves({"a": run([0.8, 0.4]), "b": run([0.6, 0.2])}, title="$x$ on digits")
    errors, losses = figure.axes
    assert [each[1:] for each in curves(errors)] == [
        *(("--", "C0", 1.0), ("-", "C0", 2.0)),
        *(("--", "C1", 1.0), ("-", "C1", 2.0)),
    ]
    assert [each[0] for each in curves(errors)] == [[80, 40], [20], [60, 20], [10]]
    assert [each[0] for each in curves(losses)] == [[1.6, 0.8], [0.4], [1.2, 0.4], [0.2]]
    # The values that runs end with, of the evaluations.
    assert (texts(errors), texts(losses)) == (["20.00 %", "10.00 %"], ["0.4", "0.2"])
    assert figure.get_suptitle() == "$x$ on digits"
    assert legend(figure) == ["train", "test", "a", "b"]
    # Of one run no colour needs a name, and there is room for what training ended with.
    figure = plot_curves({"a": run([0.8, 0.4])})
    assert (legend(figure), texts(figure.axes[0])) == (["train", "test"], ["40.00 %", "20.00 %"])


def test_splits_of_different_names_have_different_styles():
    figure = plot_curves({"a": run([0.8, 0.4]), "b": run([0.8, 0.4], split="validation")})
    assert [each[1] for each in curves(figure.axes[0])] == ["--", "-", "--", "-."]
    assert legend(figure) == ["train", "validation", "test", "a", "b"]
    figure = plot_curves({"b": run([0.8, 0.4], split="validation")})
    assert [each[1] for each in curves(figure.axes[0])] == ["--", "-"]


def markers(figure):
    return [line.get_marker() for line in figure.axes[0].get_lines()]


def test_a_notebook_shows_a_picture_also_where_pyplot_is_not_imported(tmp_path):
    figure = plot_confusion(np.eye(2, dtype=int), ["cat", "dog"], tmp_path / "confusion.png")
    shown = Image.open(io.BytesIO(figure._repr_png_()))  # pyright: ignore[reportAttributeAccessIssue]
    assert shown.size == Image.open(tmp_path / "confusion.png").size


def test_few_points_are_drawn_as_points():
    assert markers(plot_curves({"a": run([0.8])})) == ["o"]
    assert markers(plot_curves({"a": run([0.8] * 20)})) == ["None", "o"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0.9, 0.004], "log"), ([0.9, 0.0], "symlog"), ([0.4, 0.41], "log"), ([0.9, 1e-9], "log"), ([0.0, 0.0], "linear")],
)
def test_the_end_can_be_read_and_zero_has_a_place(values, scale, tmp_path):
    figure = plot_curves({"a": run(values)}, tmp_path / "a.png")
    errors = figure.axes[0]
    assert errors.get_yscale() == scale
    low, high = errors.get_ylim()
    drawn = [value for each in curves(errors) for value in each[0]]
    assert low < min(drawn) <= max(drawn) < high
    if scale != "linear":
        ticks = [tick for tick in errors.get_yticks() if low <= tick <= high]
        assert 3 <= len(ticks) <= 12
        assert (0 in ticks) == (0 in values)
        # All curves are above the lower edge by a visible part of the height.
        at = [(errors.transScale + errors.transLimits).transform((10, value))[1] for value in drawn]
        assert min(at) > 0.01
        assert max(at) > 0.3


def drops(rates):
    figure = plot_curves({"a": run([0.5] * len(rates), rates=rates)})
    return [np.asarray(line.get_xdata())[0] for line in figure.axes[0].get_lines() if line.get_zorder() == 0]


def test_drops_of_the_rate_are_marked():
    assert drops([0.1, 0.1, 0.01, 0.01, 0.001]) == [20, 40]
    # As runs log them, at 10, 20, …: the update that leads to step k has the rate of k - 1.
    for boundary, place in ((20, 20), (25, 20), (29, 20), (30, 30)):
        rate = piecewise(0.1, (boundary,), 0.1)
        assert drops([float(rate(step - 1)) for step in range(10, 60, 10)]) == [place]
    assert drops([0.01, 0.05, 0.1, 0.1]) == []  # a warm-up
    assert drops([0.05, 0.1, 0.01]) == [20]  # which a drop may follow
    assert drops([0.1 * (1 + np.cos(np.pi * i / 20)) for i in range(20)]) == []
    assert drops([0.0, 0.0, 0.1]) == []
    # Those of many runs would hide the curves.
    many = {str(i): run([0.5] * 30, rates=[0.1] * (i + 1) + [0.01] * (29 - i)) for i in range(9)}
    figure = plot_curves(many)
    assert "the rate drops" not in legend(figure)
    assert "the rate drops" in legend(plot_curves(dict(list(many.items())[:8])))


def test_values_at_the_end_do_not_lie_over_each_other():
    figure = plot_curves({str(i): run([0.5, 0.1 + i / 1000]) for i in range(12)})
    heights = sorted(text.xy[1] for text in figure.axes[0].texts if isinstance(text, Annotation))
    assert len(heights) == 12
    assert min(np.diff(heights)) >= 0.049
    assert heights[-1] <= 1
    # More of them would need more space than there is, and colours of many runs still differ.
    figure = plot_curves({str(i): run([0.5, 0.1]) for i in range(21)})
    assert texts(figure.axes[0]) == []
    assert len({each[2] for each in curves(figure.axes[0])}) == 21


def test_a_task_without_errors_has_one_picture():
    figure = plot_curves({"a": [{"step": 1, "train_loss": 0.5}, {"step": 2, "train_loss": float("nan")}]})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
    assert curves(figure.axes[0])[0][0] == [0.5]


def test_no_name_goes_to_the_parser_of_formulas(monkeypatch, tmp_path):
    parsed = []
    parse = MathTextParser.parse
    monkeypatch.setattr(
        MathTextParser, "parse", lambda self, s, *rest, **more: parsed.append(s) or parse(self, s, *rest, **more)
    )
    plot_confusion(np.eye(2, dtype=int), ["$x$", "$y^2$"], tmp_path / "a.png")
    assert parsed == []
    plot_curves({"$x$": lines("$x$")}, tmp_path / "b.png")
    # The powers of ten of the logarithmic axis are formulas.
    assert not any("x" in each for each in parsed)


def test_long_names_leave_room_for_the_picture(tmp_path):
    names = ["x" * 250 + "a", "x" * 250 + "b"]
    figure = plot_confusion(np.eye(2, dtype=int), names, tmp_path / "a.png")
    assert figure.axes[0].get_position().width > 0.1
    figure = plot_curves({name: lines(name) for name in names}, tmp_path / "b.png")
    assert len(legend(figure)) == len(set(legend(figure))) == 4
    assert figure.axes[0].get_position().width > 0.3


def test_a_run_without_a_line_has_a_picture(tmp_path):
    plot_curves({}, tmp_path / "a.png")
    plot_curves({"run": []}, tmp_path / "a.png", title="x")
    assert (tmp_path / "a.png").exists()


def test_a_picture_is_the_same_whatever_matplotlib_is_set_to(tmp_path):
    def draw(name):
        plot_curves({"$x$": lines("x")}, tmp_path / f"{name}.png")
        plot_confusion(np.eye(2, dtype=int), ["$x$", "b"], tmp_path / f"{name}2.png")
        return (tmp_path / f"{name}.png").read_bytes(), (tmp_path / f"{name}2.png").read_bytes()

    usual = draw("usual")
    assert draw("again") == usual
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "savefig.bbox": "tight", "axes.grid": True}):
        assert draw("other") == usual


def test_the_picture_of_the_readme_is_of_the_figures_beside_it():
    """Its curves end at the errors that the table holds and that README names."""
    root = Path(__file__).parent.parent.parent
    found = json.loads((root / "experiments" / "results" / "digits_degradation.json").read_text())
    figure = plot_curves(found["metrics"], title=found["title"])
    assert texts(figure.axes[0]) == [f"{row['mean']:.2%}".replace("%", " %") for row in found["rows"]]
    readme = " ".join((root / "README.md").read_text().split())
    plain20, plain56, residual20, residual56 = (f"{row['mean']:.1%}".replace("%", " %") for row in found["rows"])
    assert f"({plain56} against {plain20} test error after" in readme
    assert f"({residual56} against {residual20})" in readme
    assert len(legend(figure)) == 7
