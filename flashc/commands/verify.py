"""`flashc verify`: run a workload's kernels here and compare with float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from flashc.commands.options import (
    backend_option,
    device_option,
    json_option,
    notice_alias,
    read_workload,
    seed_option,
    set_option,
)

if TYPE_CHECKING:
    from flashc.commands.render import Table
    from flashc.compiler.verify import VerifyRow

Results = Mapping[str, Sequence["VerifyRow"]]


@click.command("verify", short_help="Run the kernels here, compare with float64.")
@click.argument("files", type=click.Path(), nargs=-1, required=True, metavar="FILE...")
@device_option()
@backend_option()
@set_option()
@seed_option()
@click.option("--full", is_flag=True, help="Check every element; a sample of the output rows by default.")
@json_option()
def command(
    files: tuple[str, ...],
    device: str,
    backend: str | None,
    overrides: tuple[str, ...],
    seed: int,
    full: bool,
    as_json: bool,
) -> None:
    """Run every backend that can run here on random inputs, against float64 and the naive computation."""
    from flashc.commands.render import print_blocks, print_json, progress
    from flashc.compiler.verify import verify

    notice_alias(device)
    workloads = {file: read_workload(file, overrides) for file in files}
    results: dict[str, Sequence[VerifyRow]] = {}
    for file, workload in workloads.items():
        with progress(f"verifying {file}"):
            results[file] = verify(workload, device, backend=backend, seed=seed, full=full)
        if not as_json:
            print_blocks([_table(file, results[file])])
    if as_json:
        print_json(_document(results, seed))
    _refuse_failures(results)


def passed(rows: Sequence[VerifyRow]) -> bool:
    """Whether something ran and everything that ran is within its limit."""
    ran = [row for row in rows if row.skipped is None]
    return bool(ran) and all(row.ok for row in ran)


def _refuse_failures(results: Results) -> None:
    from flashc.errors import VerificationError

    failed = [file for file, rows in results.items() if not passed(rows)]
    if failed:
        raise VerificationError(
            f"{len(failed)} of {len(results)} workloads did not pass: {', '.join(failed)}"
        )


def _table(file: str, rows: Sequence[VerifyRow]) -> Table:
    from flashc.commands.render import Table

    columns = ("backend", "output", "error", "naive", "limit", "result", "how")
    note = "error: relative norm against float64; limit: twice the naive computation's, at least 4 ulp"
    return Table(file, columns, tuple(map(_cells, rows)), frozenset({"error", "naive", "limit"}), note)


def _cells(row: VerifyRow) -> tuple[str, ...]:
    if row.skipped is not None:
        return row.backend, row.output, "", "", "", "skipped", row.skipped
    numbers = (f"{number:.2e}" for number in (row.error, row.naive, row.limit))
    return row.backend, row.output, *numbers, "pass" if row.ok else "FAIL", row.how


def _document(results: Results, seed: int) -> dict[str, Any]:
    workloads = [
        {"source": file, "passed": passed(rows), "rows": [dataclasses.asdict(r) for r in rows]}
        for file, rows in results.items()
    ]
    return {"schema": "flashc.verify/1", "seed": seed, "workloads": workloads}
