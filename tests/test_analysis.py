"""The walkers against the interpreter: closed-form traffic equals the exact count, whatever the schedule and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import load_workload
from flashc.ir.analysis import sites, traffic_bytes, traffic_words, work
from flashc.ir.footprint import footprint
from flashc.ir.interp import interpret
from flashc.ir.nodes import Dot
from flashc.ir.ranges import needed_end, valid_end
from flashc.ops import registry

ATTENTION = {"op": "attention", "head_dim": 16, "dtype": "fp16", "outputs": ["o", "lse"]}
GEMM = {"op": "gemm", "dtype": "fp32"}


def _parts(document: dict[str, Any]) -> tuple[Any, Any]:
    workload = load_workload(document)
    return registry()[workload.op], workload.spec


def _check(document: dict[str, Any], tiles: dict[str, int]) -> None:
    operator, spec = _parts(document)
    inputs = random_inputs(operator, spec, 0)
    env = {**operator.sizes(spec), **{n: np.asarray(v) for n, v in operator.tables(spec).items()}}
    for program in operator.schedules(spec):
        here = {**env, **{t: tiles[t] for t in program.tiles}}
        counted = interpret(program, inputs, here, operator.params(spec)).traffic
        walked = {**here, **dict(program.fixed)}
        assert traffic_words(program).evaluate(walked) == counted.words, program.schedule
        assert traffic_bytes(program).evaluate(walked) == counted.bytes, program.schedule


tile = st.integers(2, 40)
TILES = st.fixed_dictionaries(dict.fromkeys(("Ti", "Tj", "Tk", "Te", "Ri", "Rj", "Re", "Tg", "Tn"), tile)).map(
    lambda t: {**t, "stages": 1}
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    tiles=TILES,
    n=st.integers(1, 60),
    m=st.integers(1, 60),
    causal=st.booleans(),
    window=st.sampled_from([None, [-1, 3], [7, -1], [5, 2]]),
    lengths=st.booleans(),
    mask=st.booleans(),
)
def test_closed_form_traffic_of_attention(
    tiles: dict[str, int], n: int, m: int, causal: bool, window: Any, lengths: bool, mask: bool
) -> None:
    document = {**ATTENTION, "batch": 2, "heads": {"q": 2, "kv": 1}, "seq": {"q": n, "kv": m}, "causal": causal}
    if window:
        document["window"] = window
    if lengths:
        document["kv_lengths"] = [m, m // 2]
    if mask:
        document["mask"] = {"shape": [2, 1, n, m]}
    _check(document, tiles)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(tiles=TILES, m=st.integers(1, 50), n=st.integers(1, 50), k=st.integers(1, 50), transposed=st.booleans())
def test_closed_form_traffic_of_gemm(tiles: dict[str, int], m: int, n: int, k: int, transposed: bool) -> None:
    _check({**GEMM, "m": m, "n": n, "k": k, "transpose_a": transposed, "batch": 2}, tiles)


def test_work_counts_what_the_kept_region_needs() -> None:
    operator, spec = _parts({**ATTENTION, "batch": 1, "heads": 1, "seq": 32, "causal": True})
    program = operator.schedules(spec)[0]
    env = {**operator.sizes(spec), "Ti": 1, "Tj": 1, "stages": 1}
    done = work(program, program.kernels[0])
    pairs = 32 * 33 // 2
    assert done.flops.evaluate(env) == 4 * 16 * pairs
    assert done.exps.evaluate(env) == 2 * pairs + 32  # p and alpha at every step of one row, and one log for the lse


def test_a_causal_tile_needs_no_keys_beyond_its_last_row() -> None:
    """What is loaded is cut where the tensor ends, what is computed already where the last row does."""
    operator, spec = _parts(ATTENTION | {"batch": 1, "heads": 1, "seq": 18, "causal": True})
    program = next(p for p in operator.schedules(spec) if p.schedule == "q_stationary")
    here = {**operator.sizes(spec), **dict(program.fixed), **dict.fromkeys(program.tiles, 1), "Ti": 4, "Tj": 8}
    ends = [min(first + 4, 18) for first in range(0, 18, 4)]
    rows = [4, 4, 4, 4, 2]
    for end, keys in (needed_end, ends), (valid_end, [min(8 * -(-e // 8), 18) for e in ends]):
        dot = next(s for s in sites(program, program.kernels[0], end) if isinstance(s.stmt, Dot))
        expected = sum(r * k for r, k in zip(rows, keys, strict=True))
        assert dot.count(("i", "j")).evaluate(here) == expected


@pytest.mark.parametrize("stages", [1, 3])
def test_footprint_counts_what_is_alive_together(stages: int) -> None:
    operator, spec = _parts({**ATTENTION, "batch": 1, "heads": 1, "seq": 64})
    program = operator.schedules(spec)[0]
    env = {"Ti": 8, "Tj": 4, "stages": stages, "D": 16, "E": 16}
    state, query = 4 * (8 * 16 + 2 * 8), 2 * 8 * 16
    streamed = 2 * 2 * 4 * 16 * stages  # the buffers of K and V are held for the whole loop
    row_sums = 4 * 8 * 4 + 3 * 4 * 8  # p with alpha, its row sum and the new maximum: the largest moment of a step
    assert footprint(program, program.kernels[0], None).evaluate(env) == state + query + streamed + row_sums
