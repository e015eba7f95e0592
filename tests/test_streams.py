"""Runs and jumps of loads, counted in closed form and in the address trace; what is loaded ahead of its use."""

from __future__ import annotations

from typing import Any

import pytest

from flashc import backends
from flashc.autotune.counts import walked
from flashc.autotune.streams import ahead_again, jumps
from flashc.compiler.tune import environment
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.iomodel.segments import READ
from flashc.iomodel.trace import trace
from flashc.ir.analysis import Pad
from flashc.ir.nodes import Load, Program
from flashc.ops import registry
from flashc.passes.bind import bind

PAD = Pad(lambda _axis, extent: extent, whole=False)
GEMM: dict[str, Any] = {"op": "gemm", "m": 20, "n": 50, "k": 44, "dtype": "fp32"}
PLAIN: dict[str, Any] = {"op": "attention", "batch": 1, "heads": 2, "seq": 40, "head_dim": 16, "dtype": "fp32"}
LSTM: dict[str, Any] = {
    "op": "recurrent", "cell": "lstm", "batch": 5, "steps": 3, "heads": 2, "head_dim": 6, "dtype": "fp32"
}
CASES = {
    "gemm": GEMM,
    "gemm, one row": {**GEMM, "m": 1},
    "gemm, transposed": {**GEMM, "transpose_b": True},
    "attention": PLAIN,
    "recurrent": LSTM,
}


def bound(document: dict[str, Any]) -> tuple[Program, dict[str, Any]]:
    """The first schedule in tiles of seven."""
    workload = load_workload(document)
    operator = registry()[workload.op]
    env = environment(operator, workload.spec)
    program = operator.schedules(workload.spec)[0]
    return bind(program, dict.fromkeys(program.tiles, 7)), env


@pytest.mark.parametrize("document", CASES.values(), ids=CASES)
def test_jumps_are_the_runs_of_the_address_trace_after_the_first(document: dict[str, Any]) -> None:
    program, env = bound(document)
    segments = trace(program, env).segments
    runs = int((segments.kind == READ).sum())
    counts = [walked(program, kernel, PAD) for kernel in program.kernels]
    loads = sum(s.count(()).evaluate(env) for k in counts for s in k.sites if isinstance(s.stmt, Load))
    assert sum(jumps(k).evaluate(env) for k in counts) == runs - loads


def test_rows_in_one_piece_have_no_jumps() -> None:
    program, env = bound(PLAIN)
    assert jumps(walked(program, program.kernels[0], PAD)).evaluate(env) == 0


@pytest.mark.parametrize(("first", "expected"), [(1 << 20, 0), (4096, 0), (2048, 1 / 2), (1024, 3 / 4)])
def test_what_is_loaded_ahead_comes_again_as_far_as_the_first_cache_cannot_keep_it(
    first: int, expected: float
) -> None:
    """32 keys of 16 floats, and as many ahead: 4 KiB of K, and of V."""
    document = {**PLAIN, "seq": {"q": 1, "kv": 64}, "heads": {"q": 4, "kv": 1}}
    workload, device = load_workload(document), load_device("zen4")
    operator = registry()[workload.op]
    grouped = next(p for p in operator.schedules(workload.spec) if p.schedule == "grouped_rows")
    placed = backends.for_device(device).place(grouped, device)
    tiles = {"Tj": 32, "stages": 2, "Tg": 4}
    again = sum(ahead_again(walked(placed, kernel, PAD), first) for kernel in placed.kernels)
    env = {**environment(operator, workload.spec), **dict(placed.fixed), **dict.fromkeys(placed.tiles, 1), **tiles}
    assert again.evaluate(env) == expected * 2 * 64 * 16 * 4
