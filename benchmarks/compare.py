"""What became worse from one result file to another: `python benchmarks/compare.py A.json B.json [--threshold 0.05]`.

For files of `flashc bench --suite`, benchmarks/cpu.py and benchmarks/regret.py. A time counts as changed when it
differs by more than the threshold and by more than three times the spread of both. Ends with code 1 if anything
became worse.
"""

from __future__ import annotations

from pathlib import Path

import click

from flashc.commands.render import Lines, Table, factor, print_blocks, seconds
from flashc.compiler.compare import Comparison, compare, read_result
from flashc.errors import ArgumentError

FILE = click.Path(dir_okay=False, path_type=Path)


def show(found: Comparison, threshold: float) -> None:
    columns = ("group", "workload", "before", "after", "time", "")
    moved = [c for c in found.changes if c.slower(threshold) or c.faster(threshold)]
    rows = tuple(
        (c.group, c.label, seconds(c.before), seconds(c.after), factor(c.ratio),
         "slower" if c.slower(threshold) else "faster")
        for c in sorted(moved, key=lambda c: -c.ratio)
    )
    print_blocks([
        Lines("the files differ in", found.notes) if found.notes else Lines("", ()),
        Table("changed", columns, rows, frozenset(columns[2:5])),
        Lines(f"{len(found.changes)} workloads in both, {len(moved)} changed, "
              f"{len(found.regressions)} regressions", found.regressions),
    ])


@click.command(help=__doc__)
@click.argument("before", type=FILE, metavar="A.json")
@click.argument("after", type=FILE, metavar="B.json")
@click.option("--threshold", type=click.FloatRange(min=0), default=0.05, show_default=True, help="Share of the time.")
@click.pass_context
def main(context: click.Context, before: Path, after: Path, threshold: float) -> None:
    try:
        found = compare(read_result(before), read_result(after), threshold)
    except ArgumentError as error:
        raise click.ClickException(str(error)) from error
    show(found, threshold)
    context.exit(1 if found.regressions else 0)


if __name__ == "__main__":
    main()
