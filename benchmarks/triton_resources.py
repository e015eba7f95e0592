"""Shared memory and registers as predicted from a tiling, beside what Triton's compiler then takes.

    python benchmarks/triton_resources.py > docs/triton_resources.md      # every tiling on every target,
    about 15 minutes

No GPU is needed. Shared memory is an upper bound that the solver relies on; registers are an estimate.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import triton

from flashc.backends.triton import BACKEND
from flashc.backends.triton.resources import estimate_registers, min_live, shared_bytes
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.hwmodels.model import Device
from flashc.ir.nodes import Program
from flashc.ops import registry
from flashc.passes.bind import bind

DEVICES = {
    "sm_80": "a100_sxm_80gb",
    "sm_90": "h100_sxm",
    "sm_100": "b200_sxm",
    "sm_120": "rtx5090",
    "gfx90a": "mi250x",
    "gfx942": "mi300x",
}
_ATTENTION: dict[str, Any] = {
    "op": "attention",
    "batch": 2,
    "heads": {"q": 8, "kv": 2},
    "seq": {"q": 2048, "kv": 2048},
    "head_dim": 64,
    "dtype": "fp16",
}
_GEMM: dict[str, Any] = {"op": "gemm", "m": 2048, "n": 2048, "k": 2048, "dtype": "fp16"}
WORKLOADS: dict[str, dict[str, Any]] = {
    "full d64": _ATTENTION,
    "causal d64": {**_ATTENTION, "causal": True},
    "causal d128 bf16": {**_ATTENTION, "causal": True, "head_dim": 128, "dtype": "bf16"},
    "full d128": {**_ATTENTION, "head_dim": 128},
    "bias d64": {**_ATTENTION, "bias": {"shape": [1, 8, 2048, 2048], "dtype": "fp16"}},
    "mask d40": {**_ATTENTION, "mask": {"shape": [1, 1, 2048, 2048]}, "head_dim": 40},
    "full d32 fp32": {**_ATTENTION, "head_dim": 32, "dtype": "fp32"},
    "gemm": _GEMM,
    "gemm a^T": {**_GEMM, "transpose_a": True},
    "gemm b^T bf16": {**_GEMM, "transpose_b": True, "dtype": "bf16"},
    "gemm fp32": {**_GEMM, "dtype": "fp32"},
}
Tiling = tuple[str, str, dict[str, int]]


def _tiles(**tiles: int) -> dict[str, int]:
    return tiles


def _attention_tilings() -> Iterator[Tiling]:
    pairs = (
        (64, 32, 4, 1),
        (128, 64, 4, 3),
        (128, 128, 8, 2),
        (64, 64, 4, 4),
        (16, 64, 2, 2),
        (64, 128, 4, 2),
        (128, 32, 4, 3),
    )
    for name in (n for n in WORKLOADS if " d" in n):
        for i, j, warps, stages in pairs[:3] if "fp32" in name else pairs:
            yield name, "q_stationary", _tiles(Ti=i, Tj=j, warps=warps, stages=stages)
    for i, j in ((64, 32), (64, 64), (128, 64)):
        yield "causal d64", "tile_fused", _tiles(Ti=i, Tj=j, Tk=32, Te=32, warps=4, stages=1)
        yield "causal d64", "stored_scores", _tiles(Ti=i, Tj=j, Tk=32, Ri=i, Rj=j, Re=64, warps=4, stages=2)


def _gemm_tilings() -> Iterator[Tiling]:
    for name in (n for n in WORKLOADS if n.startswith("gemm")):
        yield name, "output_stationary", _tiles(Ti=64, Tj=64, Tk=32, warps=4, stages=2)
        if "fp32" not in name:
            yield name, "output_stationary", _tiles(Ti=128, Tj=128, Tk=32, warps=4, stages=3)
            yield name, "output_stationary", _tiles(Ti=128, Tj=256, Tk=64, warps=8, stages=3)
            yield name, "output_stationary", _tiles(Ti=128, Tj=64, Tk=32, warps=4, stages=1)


TILINGS: tuple[Tiling, ...] = (*_attention_tilings(), *_gemm_tilings())


@dataclass(frozen=True)
class Row:
    """One compiled kernel; sizes in bytes, registers per thread."""

    target: str
    workload: str
    kernel: str
    tiles: dict[str, int]
    predicted_shared: int
    shared: int
    least_registers: int
    estimated_registers: int
    registers: int
    spilled: int

    @property
    def over(self) -> float:
        return self.predicted_shared / self.shared


def rows(tilings: Iterable[Tiling], targets: Sequence[str]) -> Iterator[Row]:
    """Compile every tiling for every target; tilings that the constraints refuse are left out."""
    for name, schedule, tiles in tilings:
        workload = load_workload(WORKLOADS[name])
        program = next(p for p in registry()[workload.op].schedules(workload.spec) if p.schedule == schedule)
        for target in targets:
            device = load_device(DEVICES[target])
            yield from _compiled(name, program, _clipped(tiles, device), target, device)


def _clipped(tiles: dict[str, int], device: Device) -> dict[str, int]:
    return {t: min(n, 2) if t == "stages" and device.vendor == "amd" else n for t, n in tiles.items()}


def _compiled(
    name: str, program: Program, tiles: dict[str, int], target: str, device: Device
) -> Iterator[Row]:
    placed = BACKEND.place(program, device)
    if not all(
        c.left.evaluate(tiles) <= c.right.evaluate(tiles) for c in BACKEND.constraints(placed, device)
    ):
        return
    bound = bind(placed, tiles)
    built = BACKEND.build(BACKEND.emit(bound, device), bound, device)
    for kernel, found in zip(placed.kernels, built.resources, strict=True):
        assert (
            found.shared_bytes is not None and found.registers is not None and found.spill_bytes is not None
        )
        yield Row(
            target,
            name,
            kernel.name,
            tiles,
            shared_bytes(placed, kernel, device).evaluate(tiles),
            found.shared_bytes,
            min_live(placed, kernel, device).evaluate(tiles),
            estimate_registers(placed, kernel, device).evaluate(tiles),
            found.registers,
            found.spill_bytes,
        )


def table(found: Sequence[Row]) -> str:
    """The rows as a Markdown page with a summary per target."""
    heads = (
        (
            "target",
            "kernels",
            "shared memory, predicted / compiled: median",
            "largest",
            "registers, estimate / compiled: median",
        ),
        (
            "target",
            "workload",
            "kernel",
            "tiles",
            "shared: predicted",
            "compiled",
            "registers: least",
            "estimate",
            "compiled",
            "spilled B",
        ),
    )
    summary, detail = (f"| {' | '.join(h)} |\n|{'---|' * len(h)}" for h in heads)
    lines = [
        "# Triton: predicted and compiled resources",
        "",
        f"Written by `python benchmarks/triton_resources.py` with Triton {triton.__version__}, no GPU.",
        "Shared memory is an upper bound (ratio >= 1). Tilings that the constraints refuse are not listed.",
        "",
        summary,
    ]
    for target in dict.fromkeys(r.target for r in found):
        here = [r for r in found if r.target == target]
        over = [r.over for r in here]
        registers = statistics.median(r.estimated_registers / r.registers for r in here)
        lines.append(
            f"| {target} | {len(here)} | {statistics.median(over):.2f} | {max(over):.2f} | {registers:.2f} |"
        )
    lines += ["", detail]
    for r in found:
        tiles = " ".join(f"{k}={v}" for k, v in r.tiles.items())
        shared, registers = (
            (r.predicted_shared, r.shared),
            (r.least_registers, r.estimated_registers, r.registers),
        )
        cells = (r.target, r.workload, r.kernel, tiles, *shared, *registers, r.spilled)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(targets: Sequence[str]) -> None:
    began, found = time.monotonic(), []
    for row in rows(TILINGS, targets):
        found.append(row)
        print(
            f"{time.monotonic() - began:5.0f} s  {row.target} {row.workload} {row.tiles}: {row.over:.2f}",
            file=sys.stderr,
        )
    print(table(found), end="")


if __name__ == "__main__":
    main(sys.argv[1:] or list(DEVICES))
