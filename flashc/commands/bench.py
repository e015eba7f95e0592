"""`flashc bench`: time a kernel on this machine beside what else computes the same."""

from __future__ import annotations

import click

from flashc.commands.options import (
    device_option,
    file_argument,
    json_option,
    notice_alias,
    read_workload,
    seed_option,
    set_option,
)


@click.command("bench", short_help="Time a kernel here beside PyTorch's.")
@file_argument()
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
@json_option()
def command(
    file: str, device: str, overrides: tuple[str, ...], repeat: int, seed: int, as_json: bool
) -> None:
    """Time the kernel of FILE on this machine, beside PyTorch's where torch is installed."""
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
