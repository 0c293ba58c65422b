import base64
import dataclasses
import html.parser
import re
import xml.etree.ElementTree as ElementTree

import pytest
from test_claims import CLAIM, CURVES, results

from resnet_jax.cli.main import main
from resnet_jax.report import Claim, Curves, render_html, render_markdown, write_results
from resnet_jax.report.figures import draw
from resnet_jax.report.page import row

UNSAFE = Claim("<b>Deep & | deeper</b>", "so", "a | b", "not shown", data="digits", budget="400 iterations")
NOT_RUN = Claim("ResNet-20 errs as printed.", 8.75, "", "not run", unit="%", section="Table 6", command="a b")


def test_a_difference_is_that_of_a_full_form_in_standard_deviations():
    """(1.5 - 8.75) / 0.7071, by hand."""
    assert row(CLAIM, "full").difference == "-10.3 std"
    assert row(CLAIM, "small").difference == ""
    assert row(dataclasses.replace(CLAIM, ours=[1.5]), "full").difference == ""
    assert row(dataclasses.replace(CLAIM, paper="below 9"), "full").difference == ""


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        *(([1.0, 2.0], "1.50 ± 0.71 % (2)"), ([100.0, 140.0], "120 ± 28 % (2)"), ([0.0625], "0.0625 %"), ([], "–")),
        *(([2.0, 2.0], "2 ± 0 % (2)"), ("as text", "as text"), ("", "–")),
    ],
)
def test_values_have_the_digits_that_their_spread_leaves(ours, text):
    assert row(dataclasses.replace(CLAIM, ours=ours), "small").ours == text


class Reader(html.parser.HTMLParser):
    """The texts, the sources of pictures and the tags of a page; an end that has no beginning is an error."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.pictures, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.pictures += [attrs["src"]] if tag == "img" else []
        self.links += [value for name, value in attrs.items() if name in ("href", "src") and tag != "img"]
        self.open += [tag] if tag not in ("meta", "img", "br") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page():
    figure = results("figure1", claims=[dataclasses.replace(CLAIM, section="Figure 1")])
    found = [dataclasses.replace(figure, training_seconds=2246.1, resumed=True)]
    found.append(results("table6", "full", claims=[UNSAFE, NOT_RUN, dataclasses.replace(CLAIM, figure=None)]))
    reader, text = Reader(), render_html(found)
    reader.feed(text)
    return found, reader, text


def test_a_page_is_whole_and_needs_nothing_else(page):
    _, reader, text = page
    assert reader.open == []
    assert all(link.startswith("#") for link in reader.links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert len(reader.pictures) == 2  # on the first screen, and below its claim
    kind, _, data = reader.pictures[0].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_the_first_screen_counts_and_the_rows_say_what_was_claimed(page):
    _, reader, _ = page
    text = " ".join(" ".join(reader.texts).split())
    assert "2 shown 1 not shown 1 not run" in text
    assert "full forms: 1 shown, 1 not shown, 1 not run" in text
    assert "<b>Deep & | deeper</b>" in text
    assert "-10.3 std" in text
    assert "2 CPU seconds, and the trainings of its networks took 2,246 seconds of wall time, some or all of" in text
    assert re.search(r"ResNet-20 0.27 8.75 not run", text)
    assert "ResNet-110 1.7 6.43 (6.61 ± 0.16)" in text


def test_the_same_results_make_the_same_bytes(page):
    found, _, text = page
    assert render_html(found) == text
    assert render_markdown(found) == render_markdown(found)


def test_a_table_six_row_is_that_of_its_network(page):
    run = dataclasses.replace(NOT_RUN, state="shown", ours=[8.6, 8.8], data="CIFAR-10")
    text = render_markdown([results("table6", "full", claims=[run])])
    assert "| ResNet-20 | 0.27 | 8.75 | 8.70 ± 0.14 % (2) |" in text
    copies = dataclasses.replace(run, data="JPEG copies")
    assert "8.70 ± 0.14 % (2) (JPEG copies) |" in render_markdown([results("table6", claims=[copies])])


def test_cells_of_markdown_hold_what_would_end_them(page):
    text = render_markdown(page[0])
    assert "| not shown | &lt;b>Deep & \\| deeper&lt;/b> | so | a \\| b | – | digits; 400 iterations |" in text
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert set(columns) == {5, 7}


def test_figures_hold_bars_lines_and_what_is_no_number():
    names = {"a, training": ([1, 2], [1.0, float("nan")]), "$x_1$, test": ([1, 2], [0.1, 0.2])}
    lines, bars = (draw(Curves("$x", "y", names, log_y=log, bars=log)) for log in (False, True))
    assert lines != bars
    assert all(ElementTree.fromstring(each).tag.endswith("svg") for each in (lines, bars))
    assert draw(CURVES) == draw(CURVES)


def test_lines_have_colors_of_their_own_but_for_two_splits_of_one_network():
    def colors(*names):
        text = draw(Curves("x", "y", {name: ([1, 2], [1.0, 2.0]) for name in names})).decode()
        return len(set(re.findall(r"stroke: (#[0-9a-f]{6})", text)) & {"#1f77b4", "#ff7f0e", "#2ca02c"})

    assert colors("plain-20, training", "plain-20, test") == 1
    assert colors("plain-20, training", "plain-20, test", "plain-56, test") == 2
    assert colors("plain, He", "plain, 0.01", "plain") == 3


def test_the_command_writes_both_pages_and_says_what_it_lacks(tmp_path, capsys):
    write_results(tmp_path / "results" / "one.json", results())
    assert main(["report", str(tmp_path / "results"), f"--output={tmp_path}/made/page.html"]) == 0
    assert "1 claims: 1 shown, 0 not shown, 0 not run" in capsys.readouterr().out
    assert (tmp_path / "made" / "page.html").stat().st_size > 1000
    assert "Deep is worse." in (tmp_path / "made" / "page.md").read_text()
    assert main(["report"]) == 2
    assert main(["report", str(tmp_path), "--output=page.pdf"]) == 2
    errors = capsys.readouterr().err
    assert "a folder of results is wanted" in errors
    assert "must end in .html" in errors
