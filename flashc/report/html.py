"""The report as one HTML page: inline styles and pictures, no script, nothing fetched."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flashc.report import captions, numbers, plots, tables
from flashc.report.facts import Report


def environment(markup: bool = True) -> Environment:
    """Templates of this package; for ``markup`` every value is escaped unless it says that it is markup itself."""
    found = Environment(
        loader=PackageLoader("flashc.report"),
        autoescape=markup,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["held"] = numbers.held
    found.filters["words"] = words
    found.filters["breakable"] = breakable
    return found


def style_sheet(name: str) -> str:
    return resources.files("flashc.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def breakable(name: str) -> Markup:
    """A name that may be broken after an underscore where the column is narrow."""
    return Markup("_<wbr>").join(name.split("_"))


def words(name: str) -> str:
    """`attention_backward` as `Attention backward`."""
    return name.replace("_", " ").capitalize()


def pictures(report: Report, width: int) -> dict[str, str]:
    """Every plot of the report as SVG text, by name."""
    found = {
        "traffic": plots.traffic_plot(report.curves, width),
        "roofline": plots.roofline_plot(report.roofline, width),
    }
    if report.disk is not None:
        found["disk"] = plots.disk_plot(report.disk, width)
    if report.sweep is not None:
        found["sweep_traffic"], found["sweep_time"] = plots.sweep_plots(report.sweep, width)
    return found


def render(report: Report) -> str:
    """The whole page."""
    templates = environment()
    css = style_sheet("colours.css") + style_sheet("page.css")
    drawn = {"wide": pictures(report, plots.WIDE), "narrow": pictures(report, plots.NARROW)}
    page = templates.get_template("report.html.j2")
    return page.render(
        r=report,
        css=Markup(css),
        figure=partial(_figure, drawn),
        captions=captions.captions(report),
        rules=[_rule(r) for r in report.rules],
        **tables.tables(report),
    )


def _figure(drawn: dict[str, dict[str, str]], name: str, caption: str) -> Markup:
    both = Markup("").join(Markup('<div class="{}">{}</div>').format(k, Markup(v[name])) for k, v in drawn.items())
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(both, caption)


def _rule(rule: Any) -> dict[str, Any]:
    return {
        "name": rule.name,
        "total": numbers.moved(rule.total),
        "assumptions": rule.assumptions,
        "formula": rule.formula,
        "certificate": json.dumps(rule.certificate, indent=1) if rule.certificate else "",
        "used": rule.used,
        "shown": rule.used or rule.name == "compulsory",
    }
