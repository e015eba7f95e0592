"""`flashc report`: bound, chosen schedule, simulation and plots of a workload on a device, as HTML, Markdown, JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashc.commands.options import (
    backend_option,
    device_option,
    file_argument,
    json_option,
    output_option,
    read_device,
    read_workload,
    set_option,
)

if TYPE_CHECKING:
    from flashc.report.facts import Report
    from flashc.report.sweep import Range


def sweep_range(text: str) -> Range:
    """`seq=1k:1M`, for click's ``type``."""
    from flashc.report.sweep import parse_range

    try:
        return parse_range(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("report", short_help="Bound, schedule and simulation, as HTML, Markdown and JSON.")
@file_argument()
@device_option()
@backend_option()
@set_option()
@click.option(
    "--sweep",
    "over",
    type=sweep_range,
    metavar="KEY=FROM:TO",
    help="Also draw how it scales with a key, as in `--sweep seq=1k:1M`; sizes double.",
)
@output_option(" Files of the same names are replaced.")
@json_option()
def command(
    file: str,
    device: str,
    backend: str | None,
    overrides: tuple[str, ...],
    over: Range | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Hold the traffic of FILE's kernel on a device against its lower bound, and say what bounds it.

    Writes report.html, report.md with its plots, and report.json; with --json prints the JSON and writes nothing.
    """
    from flashc.commands.render import print_json, progress
    from flashc.compiler.tune import tune
    from flashc.report import document
    from flashc.report.case import case_of
    from flashc.report.gather import gather
    from flashc.report.sweep import sweep

    workload, model = read_workload(file, overrides), read_device(device)
    with progress(f"solving for {model.name}") as update:
        tuning = tune(workload, model, backend=backend)
        swept = sweep(workload, model, over, backend=backend, progress=update) if over else None
        report = gather(case_of(tuning), swept, update)
    if as_json:
        print_json(document.as_json(report))
        return
    folder = output or Path("flashc-out") / Path(file).stem / model.name
    _write(report, folder)


def _write(report: Report, folder: Path) -> None:
    from flashc.commands.render import Lines, print_blocks
    from flashc.report import document, html, markdown
    from flashc.report.write import write_files

    files = {"report.html": html.render(report), "report.md": markdown.render(report)}
    files |= {"report.json": document.text(report), **markdown.pictures(report)}
    written = write_files(folder, files)
    print_blocks([Lines("", report.verdict), Lines("written", tuple(map(str, written)))])
