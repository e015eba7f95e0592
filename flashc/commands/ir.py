"""`flashc ir`: the text of a tile program at each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flashc.commands.options import (
    backend_option,
    device_option,
    file_argument,
    read_device,
    read_workload,
    set_option,
)

if TYPE_CHECKING:
    from flashc.backends.base import Backend
    from flashc.compiler.workload import Workload
    from flashc.hwmodels.model import Device
    from flashc.ir.nodes import Program

STAGES = ("tile", "placed", "bound", "lowered")


@click.command("ir", short_help="Print the tile program at each stage.")
@file_argument()
@device_option(default=None)
@backend_option()
@set_option()
@click.option(
    "--schedule",
    metavar="S",
    help="One of the operator's schedules; by default the one that tune picks for "
    "the device (native), or the first one for the tile stage without --device.",
)
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    default="tile",
    show_default=True,
    help="tile: symbols. placed: levels, layouts, atoms. bound: numbers. lowered: buffers, barriers.",
)
def command(
    file: str,
    device: str | None,
    backend: str | None,
    overrides: tuple[str, ...],
    schedule: str | None,
    stage: str,
) -> None:
    """Print the tile program of FILE at a stage; the text parses back (docs/ir.md)."""
    from flashc.ir.printer import print_program

    workload = read_workload(file, overrides)
    if stage == "tile" and device is None:
        click.echo(print_program(_scheduled(workload, schedule)), nl=False)
        return
    click.echo(
        print_program(_program(workload, read_device(device or "native"), backend, schedule, stage)), nl=False
    )


def _scheduled(workload: Workload, schedule: str | None) -> Program:
    """The named schedule's program, or the first. Raises UnsupportedError for an unknown name."""
    from flashc.errors import UnsupportedError
    from flashc.hwmodels.notice import print_notice
    from flashc.ops import registry

    programs = {p.schedule: p for p in registry()[workload.op].schedules(workload.spec)}
    if schedule is None:
        name, *others = programs
        if others:
            print_notice(f"schedule {name}; --schedule also takes {', '.join(others)}")
        return programs[name]
    if schedule not in programs:
        raise UnsupportedError(
            f"{workload.source}: no schedule {schedule!r}; there are {', '.join(programs)}"
        )
    return programs[schedule]


def _program(
    workload: Workload, device: Device, backend: str | None, schedule: str | None, stage: str
) -> Program:
    from flashc import backends
    from flashc.compiler.tune import tune

    chosen = backends.get(backend) if backend else backends.for_device(device)
    name = schedule or tune(workload, device, backend=backend).best.schedule
    program = _scheduled(workload, name)
    if stage == "tile":
        return program
    if stage == "placed":
        return chosen.place(program, device)
    bound = _bound(workload, program, chosen, device)
    return bound if stage == "bound" else chosen.lower(bound)


def _bound(workload: Workload, program: Program, backend: Backend, device: Device) -> Program:
    """The schedule with its best tiles. Raises InfeasibleError where no tiles meet the constraints."""
    from flashc.autotune import solve
    from flashc.compiler.tune import environment, space
    from flashc.ops import registry
    from flashc.passes.bind import bind

    found = space(program, backend, device, environment(registry()[workload.op], workload.spec))
    return bind(found.placed, solve(found.problem).require())
