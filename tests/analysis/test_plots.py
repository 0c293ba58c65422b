import matplotlib
import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser

from resnet_jax.analysis.plots import plot_confusion, plot_curves

NAMES = ["$x$", "_hidden", "two\nlines", "caf\udce9", "日本語", "$\\frac{$", "a_b^c", "100 %", "\\$x$", "🤖", "__"]
SHOWN = ["$x$", "_hidden", "two\\nlines", "caf\\udce9", *NAMES[4:]]


def lines(name):
    return [{"step": step, "train_error": 0.5, "test_error": 0.25, "train_loss": 0.5} for step in (1, len(name) + 2)]


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.fixture(autouse=True)
def settings():
    """What matplotlib is set to is the same after a picture as before it."""
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def test_names_in_a_legend_are_drawn_as_they_are(tmp_path):
    figure = plot_curves({name: lines(name) for name in NAMES}, tmp_path / "$x$.png")
    assert legend(figure) == [f"{name}, {split}" for name in SHOWN for split in ("train", "test")]
    assert (tmp_path / "$x$.png").read_bytes()[:4] == b"\x89PNG"


def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    figure = plot_confusion(np.eye(len(NAMES), dtype=int), NAMES, str(tmp_path / "confusion.png"))
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert [text.get_text() for text in axis.get_majorticklabels()] == SHOWN
    assert (tmp_path / "confusion.png").exists()


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
    names = ["x" * 250, "x" * 249]
    figure = plot_confusion(np.eye(2, dtype=int), names, tmp_path / "a.png")
    assert figure.axes[0].get_position().width > 0.1
    figure = plot_curves({name: lines(name) for name in names}, tmp_path / "b.png")
    assert len(legend(figure)) == 4
    assert figure.axes[0].get_position().width > 0.3


def test_a_run_without_a_line_has_a_picture(tmp_path):
    plot_curves({"run": []}, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_a_picture_is_the_same_whatever_matplotlib_is_set_to(tmp_path):
    def draw(name):
        plot_curves({"$x$": lines("x")}, tmp_path / f"{name}.png")
        plot_confusion(np.eye(2, dtype=int), ["$x$", "b"], tmp_path / f"{name}2.png")
        return (tmp_path / f"{name}.png").read_bytes(), (tmp_path / f"{name}2.png").read_bytes()

    usual = draw("usual")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "savefig.bbox": "tight", "axes.grid": True}):
        assert draw("other") == usual
