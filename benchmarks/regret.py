"""How good the solver's pick is: `python benchmarks/regret.py [-o FILE.json] [--only TEXT] [--points N]`.

flashc/compiler/regret.py says what is measured; here it is done on this machine's CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cpu import machine

from flashc.commands.render import print_blocks, progress
from flashc.commands.suite_report import outcome_blocks
from flashc.compiler.regret import ROUNDS, as_json, measured
from flashc.compiler.suite import document
from flashc.compiler.timing import Filled
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.system.files import json_text, write_whole

LISTED = 200_000  # tilings of one schedule at most, best predicted first
SECONDS = 0.05  # of one measurement: short kernels run several times

WORKLOADS: dict[str, dict[str, Any]] = {
    "fp32": {"op": "attention", "batch": 1, "heads": 4, "seq": 1024, "head_dim": 64, "dtype": "fp32"},
    "fp32 d128": {"op": "attention", "batch": 1, "heads": 2, "seq": 1024, "head_dim": 128, "dtype": "fp32"},
    "causal": {"op": "attention", "batch": 1, "heads": 4, "seq": 1024, "head_dim": 64, "dtype": "fp32", "causal": True},
    "short": {"op": "attention", "batch": 1, "heads": 8, "seq": 128, "head_dim": 64, "dtype": "fp32"},
    "odd": {"op": "attention", "batch": 1, "heads": 8, "seq": 137, "head_dim": 72, "dtype": "fp32"},
    "bf16": {"op": "attention", "batch": 1, "heads": 4, "seq": 1024, "head_dim": 64, "dtype": "bf16"},
    "decode": {
        "op": "attention", "batch": 1, "heads": {"q": 32, "kv": 8}, "seq": {"q": 1, "kv": 8192}, "head_dim": 128,
        "dtype": "fp32",
    },
    "gemm": {"op": "gemm", "m": 1024, "n": 1024, "k": 1024, "dtype": "fp32"},
    "gemm bf16": {"op": "gemm", "m": 1024, "n": 1024, "k": 1024, "dtype": "bf16"},
    "gemm skinny": {"op": "gemm", "m": 16, "n": 4096, "k": 1024, "dtype": "fp32"},
}


@click.command(help=__doc__)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as JSON.")
@click.option("--only", default="", help="Only the workloads whose name contains this.")
@click.option("--points", type=click.IntRange(min=2), default=120, show_default=True, help="Tilings of a workload.")
def main(output: Path | None, only: str, points: int) -> None:
    device, outcomes = load_device("native"), []
    for name, workload in WORKLOADS.items():
        if only in name:
            with progress(f"{name}: compiling and timing {points} tilings"):
                outcome = measured(
                    name, load_workload(workload), device, Filled(SECONDS), points=points, listed=LISTED
                )
                outcomes.append(outcome)
    print_blocks(outcome_blocks(outcomes))
    if output is not None:
        found = [as_json(o, WORKLOADS[o.name]) for o in outcomes]
        write_whole(output, json_text(document("regret", machine(), ROUNDS, {"regret": found}), indent=1) + "\n")
    failed = [text for o in outcomes for text in o.failed]
    if failed:
        raise click.ClickException(f"{len(failed)} tilings failed; the first: {failed[0]}")


if __name__ == "__main__":
    main()
