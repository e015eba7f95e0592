"""The simulated misses of emitted CPU kernels against valgrind's cachegrind, which runs every instruction of them.

The kernel is emitted for AVX2 (valgrind knows no AVX-512) and linked with a driver that lays tensors and scratch out as
the trace does. Cachegrind counts last-level misses of data; a second run without the kernel call is subtracted.
What the kernel does beyond the tile program (packed copies, score tiles, accumulators in scratch) is in the lowered
program, whose trace is simulated with the same two caches. Cachegrind treats a write like a read and forgets
evictions, so the trace's writes are taken as reads here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_programs import CPU, bound, schedule, workload, x86_only

from flashc.compiler.workload import Workload
from flashc.hwmodels import load_device
from flashc.iomodel.segments import READ, WRITE
from flashc.iomodel.simulate import Cache, lru
from flashc.iomodel.trace import Trace, trace
from flashc.ir.nodes import Program
from flashc.ops import registry
from flashc.system.toolchain import find_compiler

VALGRIND = shutil.which("valgrind")
pytestmark = [
    x86_only,
    pytest.mark.skipif(VALGRIND is None, reason="no valgrind on PATH (apt-get install valgrind)"),
]
DEVICE = "zen3"
LINE = 64
FIRST = Cache(32 * 1024, LINE, 8)
OVERHEAD = 64  # lines: code (instruction misses share the last level), stack, the call's arguments
TOLERANCE = 0.08  # docs/simulation.md says where it comes from

MAIN = """
#include <cstdlib>
static char* scratch_at;
static void serial(long tasks, void (*task)(const Call*, long, char*), const Call* call, long, int) {
  for (long t = 0; t < tasks; ++t) task(call, t, scratch_at);
}
int main(int count, char**) {
  char* const base = (char*)std::aligned_alloc(1 << 20, %(bytes)s);
  const long size[] = {%(sizes)s}, stride[] = {%(strides)s};
  const float param[] = {%(params)s};
  scratch_at = base + %(scratch)s;
  const Call call = {nullptr, stride, size, param, serial, 0};
  void* const given[] = {(void*)&call, (void*)1L, %(tensors)s};
  if (count > 1) flashc_run(given);
  return base == nullptr;
}
"""


@dataclass(frozen=True)
class Kernel:
    """A lowered program and the call that is measured."""

    given: Workload
    program: Program
    env: dict[str, Any]
    order: tuple[str, ...]

    def traced(self) -> Trace:
        made = trace(CPU.lower(self.program), self.env, detail="tiles", order=self.order)
        s = made.segments
        return replace(made, segments=replace(s, kind=np.where(s.kind == WRITE, READ, s.kind).astype(np.uint8)))


def driver(kernel: Kernel, made: Trace) -> str:
    operator, spec = registry()[kernel.given.op], kernel.given.spec
    strides = []
    for t in kernel.program.tensors:
        dims = [d.evaluate(kernel.env) for d in t.dims]
        strides += [int(np.prod(dims[n + 1:], dtype=np.int64)) for n in range(len(dims))]
    start, size = made.regions["scratch"]
    params = operator.params(spec)
    values = {
        "bytes": -(-(start + size) // (1 << 20)) * (1 << 20),
        "tensors": ", ".join(f"base + {made.regions[t.name][0]}" for t in kernel.program.tensors),
        "sizes": ", ".join(str(kernel.env[n]) for n in kernel.program.sizes),
        "strides": ", ".join(map(str, strides)),
        "params": ", ".join(str(params[p.name]) for p in kernel.program.params) or "0",
        "scratch": start,
    }
    return CPU.emit(kernel.program, load_device(DEVICE)) + MAIN % values


def measured(kernel: Kernel, made: Trace, last: Cache, folder: Path) -> int:
    """Last-level data misses of the kernel call alone."""
    (folder / "main.cpp").write_text(driver(kernel, made))
    compiler = find_compiler().command
    flags = ["-std=c++17", "-O3", f"-march={load_device(DEVICE).cpu_isa}", "-ffp-contract=fast", "-fno-math-errno"]
    subprocess.run([*compiler, *flags, "-o", "main", "main.cpp"], cwd=folder, check=True, timeout=120)
    counts = [_misses(folder, last, arguments) for arguments in (["run"], [])]
    return counts[0] - counts[1]


def _misses(folder: Path, last: Cache, arguments: list[str]) -> int:
    def option(name: str, cache: Cache) -> str:
        return f"--{name}={cache.bytes},{cache.ways},{cache.line_bytes}"

    command = [str(VALGRIND), "--tool=cachegrind", "--cache-sim=yes", option("D1", FIRST), option("I1", FIRST)]
    command += [option("LL", last), f"--cachegrind-out-file={folder / 'out'}", "./main", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, timeout=280, capture_output=True, text=True)
    found = re.search(r"LLd misses:\s+([\d,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def kernel(keys: dict[str, Any], name: str, order: tuple[str, ...], **tiles: int) -> Kernel:
    given = workload(**keys)
    program = bound(schedule(given, name), load_device(DEVICE), **tiles)
    operator = registry()[given.op]
    return Kernel(given, program, {**operator.sizes(given.spec), **dict(program.fixed)}, order)


ATTENTION = {"dtype": "fp32", "batch": 1, "heads": 1, "head_dim": 64}
GEMM = {"op": "gemm", "dtype": "fp32"}
# The order in which the CPU's tasks go: as in the program, but from the last where the longest are to be the first.
QUERIES, CAUSAL, OUTPUTS = ("b", "h", "i", "e"), ("b", "h", "-i"), ("b", "i", "j")
CASES = {
    "attention": (ATTENTION | {"seq": {"q": 96, "kv": 512}}, "q_stationary", QUERIES, {"Ti": 32, "Tj": 64}),
    "half": (ATTENTION | {"seq": 320, "dtype": "fp16"}, "q_stationary", QUERIES, {"Ti": 48, "Tj": 32}),
    "causal": (
        ATTENTION | {"seq": 384, "causal": True, "heads": {"q": 2, "kv": 1}}, "q_stationary", CAUSAL,
        {"Ti": 48, "Tj": 32},
    ),
    "stored": (ATTENTION | {"seq": 256}, "stored_scores", QUERIES, {"Tj": 32, "Tk": 32}),
    "gemm": (GEMM | {"m": 256, "n": 256, "k": 256}, "output_stationary", OUTPUTS, {"Ti": 64, "Tj": 64, "Tk": 64}),
    "tails": (GEMM | {"m": 200, "n": 300, "k": 190}, "output_stationary", OUTPUTS, {"Ti": 64, "Tj": 48, "Tk": 32}),
}  # fmt: skip
QUICK = [("attention", 64), ("causal", 64), ("gemm", 32), ("tails", 128)]
FULL = [(name, kib) for name in CASES for kib in (64, 128, 512) if (name, kib) not in QUICK]


@pytest.mark.parametrize(("name", "kib"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in FULL)])
def test_simulated_misses_are_those_of_cachegrind(name: str, kib: int, tmp_path: Path) -> None:
    keys, schedule_name, order, tiles = CASES[name]
    case, last = kernel(keys, schedule_name, order, **tiles), Cache(kib * 1024, LINE, 16)
    made = case.traced()
    expected = lru(made, [FIRST, last])[1].misses
    found = measured(case, made, last, tmp_path)
    print(f"{name}, {kib} KiB: cachegrind {found}, simulated {expected}, ratio {expected / found:.4f}")
    assert abs(found - expected) <= TOLERANCE * found + OVERHEAD
