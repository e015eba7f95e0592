"""`flashc bench`: time a kernel on this machine beside what else computes the same, or a whole suite of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flashc.commands.options import (
    device_option,
    file_argument,
    json_option,
    notice_alias,
    read_device,
    read_workload,
    seed_option,
    set_option,
)

if TYPE_CHECKING:
    from pathlib import Path

SUITES = ("gpu",)
OF_A_FILE, OF_A_SUITE = ("file", "overrides", "repeat", "seed"), ("dry_run", "output", "seconds")


def _folder(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    from pathlib import Path

    return None if value is None else Path(value)


@click.command("bench", short_help="Time a kernel here beside PyTorch's.")
@file_argument(required=False)
@device_option()
@set_option()
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Interleaved rounds; medians count.",
)
@seed_option()
@click.option("--suite", type=click.Choice(SUITES), help="Check and time a suite of workloads instead of FILE.")
@click.option("--dry-run", is_flag=True, help="List what the suite would do, with modelled times; compile nothing.")
@click.option(
    "-o", "--output", callback=_folder, metavar="DIR", help="Write the suite's result into DIR as JSON."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="Time for the suite; what it does not suffice for is listed.",
)
@json_option()
@click.pass_context
def command(
    context: click.Context, file: str | None, device: str, overrides: tuple[str, ...], repeat: int, seed: int,
    suite: str | None, dry_run: bool, output: Path | None, seconds: float | None, as_json: bool,
) -> None:
    """Time the kernel of FILE on this machine, beside PyTorch's where torch is installed; or, with --suite, check and
    time many workloads on its GPU."""
    _refuse(context, OF_A_FILE if suite else OF_A_SUITE, "goes without --suite" if suite else "goes with --suite")
    given = _given(context, "device")
    if suite is not None and dry_run:
        _plan(device if given else "native-gpu", as_json)
    elif suite is not None:
        _suite(device if given else "native-gpu", seconds, output, as_json)
    elif file is None:
        raise click.UsageError("name a workload FILE, or --suite")
    else:
        _file(file, device, overrides, repeat, seed, as_json)


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _refuse(context: click.Context, names: tuple[str, ...], why: str) -> None:
    for parameter in context.command.params:
        if parameter.name in names and _given(context, parameter.name):
            raise click.UsageError(f"{parameter.get_error_hint(context)} {why}")


def _file(
    file: str, device: str, overrides: tuple[str, ...], repeat: int, seed: int, as_json: bool
) -> None:
    from flashc.commands.render import (
        Block,
        Lines,
        Table,
        factor,
        percent,
        print_blocks,
        print_json,
        progress,
        seconds,
    )
    from flashc.compiler.bench import bench

    notice_alias(device)
    workload = read_workload(file, overrides)
    with progress(f"timing {file} on {device}"):
        result = bench(workload, device, repeat=repeat, seed=seed)
    if as_json:
        print_json(result.as_json())
        return
    columns = ("", "median", "GFLOP/s", "ratio", "of peak")
    rows = tuple(
        (r.name, seconds(r.seconds_median), f"{r.gflops:.1f}", factor(r.ratio), percent(r.share_of_peak))
        for r in result.rows
    )
    table = Table(f"{file} on {device}, {repeat} rounds", columns, rows, frozenset(columns[1:]))
    blocks: list[Block] = [table, Lines("", tuple(result.notes))]
    print_blocks(blocks)


def _plan(device: str, as_json: bool) -> None:
    from flashc.commands.render import print_blocks, print_json, progress
    from flashc.commands.suite_report import plan_blocks
    from flashc.compiler import gpu_suite
    from flashc.compiler.suite import plan

    model = read_device(device)
    with progress(f"choosing tiles for {model.title}"):
        steps = plan(gpu_suite.SUITE, device, gpu_suite.REPEAT)
    if as_json:
        print_json({"schema": "flashc.benchmark-plan/1", "device": model.name, "steps": steps})
        return
    print_blocks(plan_blocks(steps, model.title))


def _suite(device: str, seconds: float | None, output: Path | None, as_json: bool) -> None:
    from flashc.commands.render import print_blocks, print_json, progress
    from flashc.commands.suite_report import result_blocks
    from flashc.compiler import gpu_suite
    from flashc.compiler.suite import problems, save
    from flashc.errors import VerificationError

    with progress("looking at this machine") as say:
        result = gpu_suite.run(device, say, gpu_suite.SECONDS if seconds is None else seconds)
    if as_json:
        print_json(result)
    else:
        print_blocks(result_blocks(result))
    if output is not None:
        click.echo(f"written: {save(result, output)}", err=True)
    found = problems(result)
    if found:
        raise VerificationError(f"{len(found)} things in the suite went wrong; the first: {found[0]}")
