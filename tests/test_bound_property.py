"""No schedule of ours goes below its bound: exact traffic at its footprint, and any policy at any size of fast memory.

Exact traffic is checked in thousands of random cases by closed form. For Belady's rule and LRU the trace is the one of
detail "elements": with C bytes of cache it is a red-blue pebble game with C bytes and three registers (both factors of
a product and its sum), so the bound is taken at that size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from flashc.compiler.workload import load_workload
from flashc.iomodel.bound import LowerBound, Moved, best
from flashc.iomodel.bounds import lower_bounds
from flashc.iomodel.closed_form import level_traffic
from flashc.iomodel.from_program import cascade
from flashc.iomodel.simulate import Cache, Counts, Explicit, belady, explicit, lru
from flashc.iomodel.trace import trace
from flashc.ir.analysis import SLOW, tiled_loops, work
from flashc.ir.footprint import footprint
from flashc.ir.intexpr import imax
from flashc.ir.nodes import Program
from flashc.ops import Operator, registry

WORD = 4
REGISTERS = 3 * WORD
ROUNDING = 1e-9  # bounds are floats

ATTENTION = [
    {},
    {"causal": True},
    {"window": [5, 0], "causal": True},
    {"window": [9, 3]},
    {"heads": {"q": 6, "kv": 2}},
    {"heads": {"q": 4, "kv": 1}, "causal": True, "value_dim": 24},
    {"value_dim": 6, "head_dim": 20},
    {"dtype": "fp16", "causal": True},
    {"dtype": "bf16", "outputs": ["o", "lse"]},
    {"kv_lengths": True},
]
BACKWARD = [{}, {"causal": True}, {"heads": {"q": 4, "kv": 2}}, {"value_dim": 6}, {"dtype": "fp16"}]
GEMM = [{}, {"transpose_a": True}, {"dtype": "fp16"}, {"dtype": "bf16", "out_dtype": "fp32", "batch": 3}]


def documents(largest: int) -> Iterator[dict[str, Any]]:
    """Small workloads of every feature set; lengths are replaced by random ones."""
    for op, features in (("attention", ATTENTION), ("attention_backward", BACKWARD)):
        for more in features:
            base = {"op": op, "batch": 2, "heads": 2, "seq": largest, "head_dim": 12, "dtype": "fp32", **more}
            if more.get("kv_lengths"):
                base["kv_lengths"] = [largest, largest // 3]
            yield base
    for more in GEMM:
        yield {"op": "gemm", "m": largest, "n": largest, "k": largest, "dtype": "fp32", **more}


class Case:
    """A workload with its programs and bounds; ``free`` are the sizes that a call may choose."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        workload = load_workload(dict(document))
        self.operator: Operator = registry()[workload.op]
        self.spec = workload.spec
        self.programs = (*self.operator.schedules(self.spec), *self.operator.baselines(self.spec))
        self.bounds = lower_bounds(cascade(self.operator.algorithm(self.spec), self.operator.schedules(self.spec)[0]))
        self.tables = {n: np.asarray(v) for n, v in self.operator.tables(self.spec).items()}
        self.sizes = {**self.operator.sizes(self.spec), **dict(self.programs[0].fixed), **self.tables}
        self.flops = {p.schedule: self._flops(p) for p in self.programs}
        self.free = [name for name in ("Lq", "Lk", "M", "N", "K") if name in self.sizes and not self.tables]

    def proved(self, program: Program) -> Sequence[LowerBound]:
        """The bounds whose assumptions the schedule meets: one that computes scores again loses those without."""
        if self.flops[program.schedule] == min(self.flops.values()):
            return self.bounds
        return [b for b in self.bounds if not any("computed once" in a for a in b.assumptions)]

    def _flops(self, program: Program) -> int:
        """With tiles of one element, so that no product is done only because its tile has others."""
        env = {**self.sizes, **dict.fromkeys(program.tiles, 1)}
        return sum(work(program, k).flops.evaluate(env) for k in program.kernels)


def numbers(program: Program, rng: np.random.Generator, largest: int, count: int) -> dict[str, Any]:
    looped = {str(x.tile) for x in tiled_loops(program)}
    return {t: rng.integers(1, largest, count) if t in looped else np.ones(count, np.int64) for t in program.tiles}


def assert_not_below(found: Moved | Explicit | Counts, least: Moved, what: str) -> None:
    assert found.loads >= least.loads * (1 - ROUNDING), f"loads {what}: {found.loads} < {least.loads}"
    assert found.stores >= least.stores * (1 - ROUNDING), f"stores {what}: {found.stores} < {least.stores}"
    assert found.total >= least.total * (1 - ROUNDING), f"total {what}: {found.total} < {least.total}"


CASES = list(documents(200))


@pytest.mark.parametrize("document", CASES, ids=str)
def test_exact_traffic_is_never_below_the_bound(document: dict[str, Any], cases: int = 50) -> None:
    case, rng = Case(document), np.random.default_rng(len(str(document)))
    for program in case.programs:
        tiles = numbers(program, rng, 48, cases)
        lengths = {name: rng.integers(1, 200, cases) for name in case.free}
        env = {**case.sizes, **lengths, **tiles}
        traffic = level_traffic(program)
        held = imax(0, *(footprint(program, k, None) for k in program.kernels))
        columns = [
            np.broadcast_to(e.evaluate_array(env), (cases,))
            for e in (traffic.bytes(SLOW, "read"), traffic.bytes(SLOW, "write"), held)
        ]
        proved = case.proved(program)
        for n, (loads, stores, fast) in enumerate(zip(*columns, strict=True)):
            sizes = {**case.sizes, **{k: int(v[n]) for k, v in lengths.items()}}
            least, rule = best(proved, sizes, int(fast))
            found = Explicit(int(loads), int(stores), int(fast))
            chosen = {k: int(v[n]) for k, v in tiles.items()}
            what = f"of {program.schedule} {sizes} {chosen}, {rule.rule} at {fast} B"
            assert_not_below(found, least, what)


def test_thousands_of_exact_cases_are_checked() -> None:
    assert sum(50 * len(Case(d).programs) for d in CASES) > 3000


SMALL = [d for d in documents(14) if d["dtype"] == "fp32"]


@pytest.mark.parametrize("document", SMALL, ids=str)
def test_no_policy_is_ever_below_the_bound(document: dict[str, Any]) -> None:
    smaller = {"head_dim": 5, **({} if "kv_lengths" in document else {"batch": 1})} if "head_dim" in document else {}
    case, rng = Case({**document, **smaller}), np.random.default_rng(len(str(document)))
    for program in case.programs:
        for _ in range(4):
            lengths = {name: int(rng.integers(2, 15)) for name in case.free}
            tiles = {t: int(v[0]) for t, v in numbers(program, rng, 9, 1).items()}
            sizes, env = {**case.sizes, **lengths}, {**case.sizes, **lengths, **tiles}
            held = max(footprint(program, k, None).evaluate(env) for k in program.kernels)
            made = trace(program, env, detail="elements")
            for fast in {held, max(4, held // 8 * 4), WORD * int(rng.integers(2, 60))}:
                least, rule = best(case.proved(program), sizes, fast + REGISTERS)
                what = f"of {program.schedule} {sizes} {tiles}, {rule.rule} at {fast} B"
                assert_not_below(belady(made, Cache(fast, WORD)), least, f"{what}, Belady")
                assert_not_below(lru(made, [Cache(fast, WORD)])[0], least, f"{what}, LRU")
            assert_not_below(explicit(trace(program, env), held), best(case.proved(program), sizes, held)[0], what)


def test_a_schedule_that_computes_scores_again_does_not_have_to_meet_the_bounds_that_forbid_it() -> None:
    case = Case(BACKWARD_DOCUMENT)
    kept = {p.schedule: len(case.proved(p)) for p in case.programs}
    assert kept["two_kernels"] < kept["kv_stationary"] == len(case.bounds)


BACKWARD_DOCUMENT = {"op": "attention_backward", "batch": 1, "heads": 1, "seq": 32, "head_dim": 8, "dtype": "fp32"}


def test_the_check_finds_a_schedule_that_forgets_a_load() -> None:
    case = Case({"op": "gemm", "m": 64, "n": 64, "k": 64, "dtype": "fp32"})
    program = case.programs[0]
    env = {**case.sizes, "Ti": 8, "Tj": 8, "Tk": 1, "stages": 1}
    found = explicit(trace(program, env))
    least, _ = best(case.bounds, case.sizes, found.peak)
    assert_not_below(found, least, "as it is")
    with pytest.raises(AssertionError, match="loads"):
        assert_not_below(Explicit(found.loads // 2, found.stores, found.peak), least, "with half its loads")
