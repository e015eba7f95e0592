"""`flashc tune`: choose schedule and tiles for a device, compile, and say what is known of the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    tile_value,
)

if TYPE_CHECKING:
    from flashc.commands.explain import Explanation
    from flashc.compiler.artefacts import Artefacts
    from flashc.compiler.tune import Tuning

EXPLAINED = 5


@click.command("tune", short_help="Choose schedule and tiles for a device, compile, explain.")
@file_argument()
@device_option()
@backend_option()
@click.option(
    "--tile",
    "tiles",
    type=tile_value,
    metavar="SYMBOL=VALUE",
    multiple=True,
    help="Fix a tile symbol, as in `--tile Ti=64`. Repeatable.",
)
@set_option()
@click.option(
    "--top-k", type=click.IntRange(min=1), metavar="N", help="Show the N best; 1, or 5 with --explain."
)
@click.option(
    "--explain",
    is_flag=True,
    help="Why this tile and why not the next ones; every default of the device model.",
)
@click.option("--dry-run", is_flag=True, help="Compile nothing and write nothing.")
@output_option()
@json_option()
def command(
    file: str,
    device: str,
    backend: str | None,
    tiles: tuple[tuple[str, int], ...],
    overrides: tuple[str, ...],
    top_k: int | None,
    explain: bool,
    dry_run: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Choose schedule and tile sizes for FILE on a device, compile, and write source, binary and tune.json.

    The device need not be present: the choice comes from its model.
    """
    from flashc.commands.render import progress
    from flashc.compiler.tune import tune

    workload, model = read_workload(file, overrides), read_device(device)
    with progress(f"solving for {model.name}"):
        tuning = tune(
            workload, model, backend=backend, fixed=dict(tiles), top_k=top_k or (EXPLAINED if explain else 1)
        )
    made = None if dry_run else produced(tuning, output)
    tuning = made.tuning if made else tuning
    reasons = _explained(tuning, made) if explain else None
    if as_json:
        _print_document(tuning, made, reasons)
    else:
        _print_report(tuning, made, reasons)


def produced(tuning: Tuning, output: Path | None) -> Artefacts:
    """Compile and write the best choice. Raises CompilerMissingError, CompileError."""
    from flashc.commands.render import progress
    from flashc.compiler.artefacts import produce
    from flashc.errors import CompilerMissingError

    folder = output or Path("flashc-out") / Path(tuning.workload.source).stem / tuning.device.name
    try:
        with progress(f"compiling for {tuning.device.name}") as update:
            return produce(tuning, folder, progress=update)
    except CompilerMissingError as error:
        raise CompilerMissingError(
            f"{error}\n`flashc tune --dry-run` gives tiles and prediction without it"
        ) from error


def _explained(tuning: Tuning, made: Artefacts | None) -> Explanation:
    from flashc.commands.explain import explanation

    return explanation(tuning, [tiles for tiles, _ in made.spilled] if made else [])


def _print_report(tuning: Tuning, made: Artefacts | None, reasons: Explanation | None) -> None:
    from flashc.commands import explain, tune_report
    from flashc.commands.render import print_blocks

    blocks = tune_report.tuning_blocks(tuning, every_default=reasons is not None)
    blocks += explain.blocks(reasons) if reasons else []
    blocks += tune_report.artefact_blocks(made) if made else [tune_report.missing_block(tuning.missing)]
    print_blocks(blocks)


def _print_document(tuning: Tuning, made: Artefacts | None, reasons: Explanation | None) -> None:
    """One document of docs/schema/tune.schema.json."""
    from flashc.commands import explain
    from flashc.commands.render import print_json
    from flashc.compiler.tune import as_json

    document: dict[str, Any] = as_json(tuning)
    document["artefacts"] = artefacts_json(made) if made else None
    document["explain"] = explain.as_json(reasons) if reasons else None
    print_json(document)


def artefacts_json(made: Artefacts) -> dict[str, Any]:
    import dataclasses

    return {
        "files": {role: str(path) for role, path in made.files.items()},
        "resources": [dataclasses.asdict(r) for r in made.resources],
        "spilled": [{"tiles": dict(tiles), **dataclasses.asdict(r)} for tiles, r in made.spilled],
        "missing": made.missing,
    }
