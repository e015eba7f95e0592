"""`flashc compile`: tune, build, and print where the files are."""

from __future__ import annotations

from pathlib import Path

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
from flashc.commands.tune import artefacts_json, produced


@click.command("compile", short_help="Tune, build, print the paths.")
@file_argument()
@device_option()
@backend_option()
@set_option()
@output_option()
@json_option()
def command(
    file: str,
    device: str,
    backend: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Compile the best choice for FILE and print the path of every file, its role before it."""
    from flashc.commands.render import print_json, progress
    from flashc.compiler.tune import tune
    from flashc.errors import UnsupportedError

    workload, model = read_workload(file, overrides), read_device(device)
    with progress(f"solving for {model.name}"):
        tuning = tune(workload, model, backend=backend)
    if tuning.missing is not None:
        raise UnsupportedError(
            f"nothing can be compiled for {model.name}: {tuning.missing}; `flashc tune` gives the tiles"
        )
    made = produced(tuning, output)
    if as_json:
        print_json({"schema": "flashc.compile/1", **artefacts_json(made)})
        return
    for role, path in made.files.items():
        click.echo(f"{role}\t{path}")
