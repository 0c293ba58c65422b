from .claims import (
    Claim as Claim,
    Curves as Curves,
    Results as Results,
    State as State,
    read_results as read_results,
    write_results as write_results,
)
from .page import render_html as render_html, render_markdown as render_markdown, write_report as write_report
