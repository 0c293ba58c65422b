"""A page of the paper's claims beside what was found: HTML that needs no other file, and Markdown."""

import base64
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from resnet_jax.analysis.paper import STATEMENTS, paper_table
from resnet_jax.errors import InputError, printable
from resnet_jax.files import expanded, write_whole
from resnet_jax.report.claims import FORMS, STATES, Claim, Curves, Results, make_folder, mean_and_spread, read_results
from resnet_jax.report.figures import draw


@dataclass(frozen=True)
class Row:
    """A claim as a page shows it; each attribute is text for people, empty where there is nothing to say."""

    state: str
    statement: str
    section: str
    paper: str
    ours: str
    difference: str
    budget: str
    data: str
    command: str
    figure: Curves | None


def row(claim: Claim, form: str) -> Row:
    """What a page says of a claim.

    A difference to the paper is that of a full form from a printed number, in standard deviations over the seeds.
    """
    if isinstance(claim.ours, str):
        ours, difference = claim.ours or "–", ""
    elif not len(claim.ours):
        ours, difference = "–", ""
    else:
        mean, spread = mean_and_spread(claim.ours)
        unit = f" {claim.unit}" if claim.unit else ""
        ours = f"{_number(mean, spread)}{unit}" if spread is None else _with_spread(mean, spread, unit, len(claim.ours))
        difference = ""
        if form == "full" and isinstance(claim.paper, int | float) and spread:
            difference = f"{(mean - claim.paper) / spread:+.1f} std"
    paper = claim.paper if isinstance(claim.paper, str) else f"{claim.paper:g} {claim.unit}".rstrip()
    texts = (claim.statement, claim.section, paper, ours, difference, claim.budget, claim.data, claim.command)
    return Row(claim.state, *map(printable, texts), figure=claim.figure)


def _with_spread(mean: float, spread: float, unit: str, count: int) -> str:
    return f"{_number(mean, spread)} ± {_number(spread, spread)}{unit} ({count})"


def _number(value: float, spread: float | None) -> str:
    """A number with the digits that its spread leaves, two of the spread's own."""
    if not spread:
        return f"{value:.4g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(spread)))}f}"


def _context(results: Sequence[Results]) -> dict[str, object]:
    sections = [(each, [row(claim, each.form) for claim in each.claims]) for each in results]
    counts = Counter(claim.state for each in results for claim in each.claims)
    forms = [
        (form, [sum(claim.state == state for claim in claims) for state in STATES])
        for form in reversed(FORMS)
        if (claims := [claim for each in results if each.form == form for claim in each.claims])
    ]
    return {
        "sections": sections,
        "states": [(state, counts[state]) for state in STATES],
        "total": counts.total(),
        "forms": forms,
        "table_six": _table_six(results),
        "degradation": _degradation(results),
        "statements": STATEMENTS,
        "anchors": {each.name: f"{each.name}-{each.form}" for each in results},
    }


def _table_six(results: Sequence[Results]) -> list[tuple[str, str, str, str, str]]:
    """The rows of table 6: network, parameters in millions, the paper's error, and ours with its data."""
    # A claim of this table begins with the network that it is of; a full form comes before a small one.
    claims = [row(claim, each.form) for each in results for claim in each.claims if claim.section == "Table 6"]
    rows = []
    for name, (_, millions, mean, std, error) in paper_table(6).rows.items():
        found = next((each for each in claims if each.statement.startswith(f"{name} ") and each.ours != "–"), None)
        paper = f"{error:.2f}" + (f" ({mean:.2f} ± {std:.2f})" if mean is not None else "")
        ours = (found.ours, found.data) if found else ("not run" if name.startswith("ResNet") else "", "")
        rows.append((name, "" if millions is None else f"{millions:g}", paper, *ours))
    return rows


def _degradation(results: Sequence[Results]) -> tuple[str, Curves] | None:
    """What was drawn for figure 1, and of what."""
    for each in results:
        for claim in each.claims:
            if claim.section.startswith("Figure 1") and claim.figure:
                return printable(
                    f"{each.title} On {claim.data}, {claim.budget}: means of {claim.seeds} seeds."
                ), claim.figure
    return None


def _data_uri(curves: Curves) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(draw(curves)).decode()


def _counts(rows: Sequence[Row | Claim]) -> list[tuple[str, int]]:
    """How many of each state there are, without those of which there is none."""
    counts = Counter(each.state for each in rows)
    return [(state, counts[state]) for state in STATES if counts[state]]


def _cell(text: object) -> str:
    """A text in a cell of a Markdown table."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _environment(*, html: bool) -> jinja2.Environment:
    loader = jinja2.PackageLoader("resnet_jax", "report")
    environment = jinja2.Environment(
        loader=loader, autoescape=html, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(data_uri=_data_uri, cell=_cell, counts=_counts)
    return environment


def render_html(results: Sequence[Results]) -> str:
    """Results as one HTML page with its figures in it; the same results make the same bytes."""
    return _environment(html=True).get_template("page.html.jinja").render(_context(results))


def render_markdown(results: Sequence[Results]) -> str:
    """The same as Markdown, without figures."""
    return _environment(html=False).get_template("page.md.jinja").render(_context(results))


def write_report(
    directories: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] = "report.html"
) -> list[Results]:
    """Writes the page of all results in folders as HTML, and beside it as Markdown, and returns the results.

    Raises:
      InputError: see `read_results`; or `output` does not end in .html, or cannot be written.

    Example:
      >>> import resnet_jax as rj
      >>> rj.report.write_report(["experiments/results/paper"], "build/report.html")  # doctest: +SKIP
    """
    path = expanded(output, "--output", remote=True)
    if path.suffix != ".html":
        raise InputError(f"--output is {output}, but it is a page, and its name must end in .html")
    results = read_results(*directories)
    make_folder(path.parent)
    write_whole(path, render_html(results))
    write_whole(path.with_suffix(".md"), render_markdown(results))
    return results
