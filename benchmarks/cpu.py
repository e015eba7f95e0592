"""The CPU backend beside PyTorch, in one process: `python benchmarks/cpu.py [-o FILE.json] [--only TEXT] [--repeat N]`.

Every row is `flashc bench`: interleaved rounds, medians, the ratio of the two and the share of this machine's measured
limit (FMA peak, or read bandwidth where the compulsory traffic takes longer than the arithmetic). Run it on a quiet
machine: a second busy process slows PyTorch several times over.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import flashc
from flashc.commands.render import Table, factor, percent, print_blocks, progress, seconds
from flashc.compiler.bench import BenchResult, bench
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device

Case = tuple[str, dict[str, Any]]


def attention(**options: Any) -> dict[str, Any]:
    return {"op": "attention", "batch": 1, "heads": 8, "head_dim": 64, "dtype": "fp32", **options}


def gemm(m: int, n: int, k: int, dtype: str) -> dict[str, Any]:
    return {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}


def cases() -> Iterator[Case]:
    """(group, workload); the geometric mean of a group is what it is judged by."""
    for causal, name in ((False, "full"), (True, "causal")):
        for length, heads in ((2048, 8), (8192, 2)):
            for d in (64, 128):
                yield f"fp32 {name}", attention(seq=length, heads=heads, head_dim=d, causal=causal)
        for d in (64, 128):
            yield f"bf16 {name}", attention(seq=2048, head_dim=d, causal=causal, dtype="bf16")
    yield "fp32 short causal", attention(seq=512, causal=True)
    yield "fp32 short full", attention(seq=128)
    for length in (17, 137, 513, 1025):
        yield "odd shapes", attention(seq=length)
    for d in (40, 72, 80, 96):
        yield "odd shapes", attention(seq=1025, head_dim=d)
    yield "odd shapes", attention(seq=1025, bias={"shape": [1025, 1025]})
    yield "odd shapes", attention(seq=1025, mask={"shape": [1025, 1025]})
    for dtype in ("fp32", "bf16"):
        grouped = {"heads": {"q": 32, "kv": 8}, "seq": {"q": 1, "kv": 32768}, "head_dim": 128}
        yield f"{dtype} decode", attention(**grouped, dtype=dtype)
        yield f"{dtype} matmul", gemm(2048, 2048, 2048, dtype)
    for m in (1, 4, 16, 64):
        yield "fp32 skinny matmul", gemm(m, 4096, 4096, "fp32")


def label(document: dict[str, Any]) -> str:
    rest = {k: v for k, v in document.items() if k not in ("batch",)}
    return " ".join(f"{k}={v}" if k != "op" else str(v) for k, v in rest.items())


def row(group: str, document: dict[str, Any], result: BenchResult) -> dict[str, Any]:
    own = result.rows[0]
    peers = {r.name: r.seconds_median for r in result.rows[1:]}
    return {
        "group": group,
        "workload": document,
        "seconds": own.seconds_median,
        "gflops": own.gflops,
        "share": own.share_of_peak,
        "peers": peers,
        "ratio": min(peers.values()) / own.seconds_median if peers else None,
        "notes": list(result.notes),
    }


def machine() -> dict[str, Any]:
    device = load_device("native")
    return {
        "device": device.title,
        "peak_tflops": dict(device.vector.peak_tflops),
        "read_gbs": device.levels[0].bandwidth_gbs,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "flashc": flashc.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def group_means(rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """(group, geometric mean of the ratios, the smallest)."""
    for group in dict.fromkeys(r["group"] for r in rows):
        ratios = [r["ratio"] for r in rows if r["group"] == group and r["ratio"]]
        if ratios:
            yield group, math.exp(sum(map(math.log, ratios)) / len(ratios)), min(ratios)


@click.command(help=__doc__)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as JSON.")
@click.option("--only", default="", help="Only the groups whose name contains this.")
@click.option("--repeat", type=click.IntRange(min=1), default=9, show_default=True, help="Interleaved rounds.")
def main(output: Path | None, only: str, repeat: int) -> None:
    rows = []
    for group, document in cases():
        if only in group:
            with progress(f"{group}: {label(document)}"):
                rows.append(row(group, document, bench(load_workload(document), repeat=repeat)))
    columns = ("workload", "flashc", "GFLOP/s", "of limit", "PyTorch", "ratio")
    body = tuple(
        (
            label(r["workload"]), seconds(r["seconds"]), f"{r['gflops']:.1f}", percent(r["share"]),
            seconds(min(r["peers"].values())) if r["peers"] else "-", factor(r["ratio"]) if r["ratio"] else "-",
        )
        for r in rows
    )
    means = tuple((g, factor(m), factor(least)) for g, m, least in group_means(rows))
    print_blocks([
        Table("flashc beside PyTorch", columns, body, frozenset(columns[1:])),
        Table("by group", ("group", "geometric mean", "least"), means, frozenset(("geometric mean", "least"))),
    ])
    if output is not None:
        document = {"schema": "flashc.benchmark/1", "machine": machine(), "repeat": repeat, "rows": rows}
        output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
