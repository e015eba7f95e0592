"""The report as Markdown, with its plots as SVG files beside it."""

from __future__ import annotations

import json
from functools import partial

from flashc.report import captions, html, plots, tables
from flashc.report.facts import Report


def render(report: Report) -> str:
    """GitHub-flavoured Markdown: tables, formulas in LaTeX, collapsible certificates."""
    templates = html.environment(markup=False)
    templates.filters["cell"] = cell
    templates.filters["pretty"] = partial(json.dumps, indent=1)
    page = templates.get_template("report.md.j2")
    return page.render(
        r=report,
        captions=captions.captions(report),
        **tables.tables(report),
    )


def cell(text: str) -> str:
    """Text of the user's that Markdown leaves as it is, in a table too."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, "\\" + sign)
    return text


def pictures(report: Report) -> dict[str, str]:
    """File name -> SVG text with its own style sheet."""
    style = f"<style>{html.style_sheet('colours.css')}</style>"
    ground = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    drawn = html.pictures(report, plots.WIDE)
    return {f"{name}.svg": _with(picture, style + ground) + "\n" for name, picture in drawn.items()}


def _with(picture: str, inside: str) -> str:
    """``inside`` right after the opening tag."""
    head, end, rest = picture.partition(">")
    return f"{head}{end}{inside}{rest}"
