"""The CPU backend beside PyTorch, in one process: `python benchmarks/cpu.py [-o FILE.json] [--only TEXT] [--repeat N]`.

Every row is `flashc bench`: interleaved rounds, medians, the ratio of the two and the share of this machine's measured
limit (FMA peak, or read bandwidth where the compulsory traffic takes longer than the arithmetic). Run it on a quiet
machine: a second busy process slows PyTorch several times over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from flashc.commands.render import print_blocks, progress
from flashc.commands.suite_report import timed_blocks
from flashc.compiler.suite import Case, Tools, document, timed, versions
from flashc.compiler.timing import Filled
from flashc.hwmodels import Device, load_device
from flashc.system.files import json_text, write_whole

AVX2 = "fp32 full, AVX2 code"  # beside PyTorch's, which uses what there is
SECONDS = 0.005  # of one measurement: a short kernel runs several times, with its threads awake


def attention(**options: Any) -> dict[str, Any]:
    return {"op": "attention", "batch": 1, "heads": 8, "head_dim": 64, "dtype": "fp32", **options}


def gemm(m: int, n: int, k: int, dtype: str) -> dict[str, Any]:
    return {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
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
    yield "odd shapes", attention(seq=1025, causal=True, window=[256, 0])
    for dtype in ("fp32", "bf16"):
        grouped = {"heads": {"q": 32, "kv": 8}, "seq": {"q": 1, "kv": 32768}, "head_dim": 128}
        yield f"{dtype} decode", attention(**grouped, dtype=dtype)
        yield f"{dtype} matmul", gemm(2048, 2048, 2048, dtype)
    yield AVX2, attention(seq=2048)
    for m in (1, 4, 16, 64):
        yield "fp32 skinny matmul", gemm(m, 4096, 4096, "fp32")


def with_avx2(device: Device) -> Device:
    """The same machine without its wider vectors."""
    vector = replace(device.vector, width_bits=256, registers=16, bf16_dot=False)
    features = device.features & {"avx2", "fma", "f16c"}
    return replace(device, vector=vector, features=features, targets={**device.targets, "cpu": ("x86-64-v3",)})


def machine() -> dict[str, Any]:
    device = load_device("native")
    peaks = {f"vector_{dtype}_tflops": peak for dtype, peak in device.vector.peak_tflops.items()}
    return {
        "device": device.title, "model": device.name, "threads": torch.get_num_threads(),
        "peaks": {**peaks, "read_gbs": device.main_memory.bandwidth_gbs}, "versions": versions(),
    }


@click.command(help=__doc__)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results as JSON.")
@click.option("--only", default="", help="Only the groups whose name contains this.")
@click.option("--repeat", type=click.IntRange(min=1), default=9, show_default=True, help="Interleaved rounds.")
def main(output: Path | None, only: str, repeat: int) -> None:
    device, tools, rows = load_device("native"), Tools(Filled(SECONDS), repeat=repeat), []
    for case in (Case(group, workload) for group, workload in cases()):
        if only not in case.group:
            continue
        if case.group == AVX2 and "avx512f" not in device.features:
            click.echo(f"left out: {AVX2}: this CPU has no wider vectors, all its code is such")
            continue
        with progress(f"{case.group}: {case.label}"):
            rows.append(timed(case, with_avx2(device) if case.group == AVX2 else device, tools))
    print_blocks(timed_blocks(rows))
    if output is not None:
        write_whole(output, json_text(document("cpu", machine(), repeat, {"rows": rows}), indent=1) + "\n")


if __name__ == "__main__":
    main()
