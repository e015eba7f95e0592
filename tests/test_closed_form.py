"""Closed-form traffic per memory level against the interpreter's exact count, for every schedule and baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc import backends
from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import load_workload
from flashc.errors import UnsupportedError
from flashc.hwmodels import load_device
from flashc.iomodel.closed_form import closed_form, closed_form_terms, level_traffic
from flashc.ir.analysis import SLOW, tiled_loops, traffic_bytes
from flashc.ir.interp import interpret
from flashc.ir.intexpr import Const
from flashc.ir.nodes import Program
from flashc.ops import Operator, registry
from flashc.passes.bind import bind

DEVICES = ("a100_sxm_80gb", "ascend910b3", "ascend910a", "zen3", "xeon_8480p")
HEADS = {"batch": 2, "heads": {"q": 2, "kv": 1}, "seq": {"q": 11, "kv": 14}, "head_dim": 6, "dtype": "fp32"}
RECURRENT = {"cell": "lstm", "batch": 5, "steps": 3, "heads": 2, "head_dim": 6, "dtype": "bf16"}
SMALL: dict[str, dict[str, Any]] = {
    "attention": HEADS,
    "attention_backward": HEADS,
    "gemm": {"m": 13, "n": 9, "k": 11, "batch": 2, "dtype": "fp32"},
    "recurrent": RECURRENT,
    "recurrent_backward": RECURRENT,
}


def parts(document: Mapping[str, Any]) -> tuple[Operator, Any]:
    workload = load_workload(dict(document))
    return registry()[workload.op], workload.spec


def environment(operator: Operator, spec: Any) -> dict[str, Any]:
    return {**operator.sizes(spec), **{n: np.asarray(v) for n, v in operator.tables(spec).items()}}


def placements(program: Program) -> Iterator[Program]:
    """The tile program, and what each backend makes of it where it can."""
    yield program
    for name in DEVICES:
        device = load_device(name)
        try:
            yield backends.for_device(device).place(program, device)
        except UnsupportedError:
            continue


def numbers(program: Program, tiles: Mapping[str, int]) -> dict[str, int]:
    """Values of all tile symbols: the given ones, or one by position in the given order; 1 for the rest."""
    drawn = list(tiles.values())
    looped = {str(x.tile) for x in tiled_loops(program)}
    return {t: drawn[n % len(drawn)] if t in looped else 1 for n, t in enumerate(program.tiles)}


def assert_counts_agree(document: Mapping[str, Any], tiles: Mapping[str, int]) -> None:
    operator, spec = parts(document)
    inputs, env = random_inputs(operator, spec, 0), environment(operator, spec)
    for schedule in (*operator.schedules(spec), *operator.baselines(spec)):
        for program in placements(schedule):
            chosen = numbers(program, tiles)
            counted = interpret(bind(program, chosen), inputs, env, operator.params(spec)).traffic
            walked, here = level_traffic(program), {**env, **dict(program.fixed), **chosen}
            found = {
                (level, way): walked.bytes(level, way).evaluate(here)
                for level in walked.levels()
                for way in ("read", "write")
            }
            assert {k: n for k, n in found.items() if n} == {k: n for k, n in counted.levels.items() if n}
            assert walked.elements(SLOW).evaluate(here) == counted.words


TILES = st.fixed_dictionaries(dict.fromkeys(("first", "second", "third"), st.integers(2, 20)))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    tiles=TILES,
    n=st.integers(1, 24),
    m=st.integers(1, 24),
    causal=st.booleans(),
    window=st.sampled_from([None, [-1, 3], [7, -1], [5, 2]]),
    lengths=st.booleans(),
    value_dim=st.sampled_from([6, 10]),
    dtype=st.sampled_from(["fp32", "fp16", "bf16"]),
)
def test_attention(
    tiles: dict[str, int], n: int, m: int, causal: bool, window: Any, lengths: bool, value_dim: int, dtype: str
) -> None:
    document = {"op": "attention", **SMALL["attention"], "seq": {"q": n, "kv": m}, "causal": causal, "dtype": dtype}
    document["value_dim"] = value_dim
    if window:
        document["window"] = window
    if lengths:
        document["kv_lengths"] = [m, m // 2]
    assert_counts_agree(document, tiles)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    tiles=TILES, m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40), transposed=st.booleans(),
    dtype=st.sampled_from(["fp32", "bf16"]),
)
def test_gemm(tiles: dict[str, int], m: int, n: int, k: int, transposed: bool, dtype: str) -> None:
    document = {"op": "gemm", "m": m, "n": n, "k": k, "batch": 2, "transpose_a": transposed, "dtype": dtype}
    assert_counts_agree(document, tiles)


@pytest.mark.parametrize("name", sorted(registry()))
@pytest.mark.parametrize("tiles", [(4, 5, 3), (7, 2, 6)])
def test_every_registered_operator(name: str, tiles: tuple[int, int, int]) -> None:
    assert name in SMALL, f"give a small workload of {name} here"
    assert_counts_agree({"op": name, **SMALL[name]}, dict(zip("abc", tiles, strict=True)))


def test_a_score_that_reads_a_captured_tensor_counts_its_elements() -> None:
    base = {"op": "attention", **SMALL["attention"]}
    for extra in ({"mask": {"shape": [2, 1, 11, 14]}}, {"bias": {"shape": [1, 2, 11, 14]}}, {"alibi": True}):
        assert_counts_agree({**base, **extra}, {"a": 4, "b": 5})


def test_levels_of_placed_programs_are_those_of_the_device() -> None:
    operator, spec = parts({"op": "gemm", **SMALL["gemm"], "dtype": "fp16"})
    (program,) = operator.schedules(spec)
    for name, expected in (("a100_sxm_80gb", {"smem", "reg"}), ("zen3", {"l2"})):
        device = load_device(name)
        placed = backends.for_device(device).place(program, device)
        assert set(level_traffic(placed).levels()) == {SLOW, *expected}
    assert level_traffic(program).levels() == (SLOW,)


def test_staged_operands_are_written_once_and_read_once_per_tile() -> None:
    operator, spec = parts({"op": "gemm", "m": 64, "n": 64, "k": 64, "dtype": "fp16"})
    device = load_device("a100_sxm_80gb")
    placed = backends.for_device(device).place(operator.schedules(spec)[0], device)
    walked, env = level_traffic(placed), {"B": 1, "M": 64, "N": 64, "K": 64, "Ti": 16, "Tj": 32, "Tk": 16, "warps": 4}
    streamed = 2 * (64 * 64 * 64 // 32 + 64 * 64 * 64 // 16)
    assert walked.bytes(SLOW, "read").evaluate(env) == streamed
    assert walked.bytes("smem", "write").evaluate(env) == walked.bytes("smem", "read").evaluate(env) == streamed


def test_closed_form_reads_like_the_formula() -> None:
    import sympy

    operator, spec = parts({"op": "gemm", "m": 64, "n": 64, "k": 64, "dtype": "fp16"})
    (program,) = operator.schedules(spec)
    names = {s: sympy.Symbol(s, integer=True, nonnegative=True) for s in ("B", "M", "N", "K", "Ti", "Tj")}
    B, M, N, K, Ti, Tj = names.values()
    expected = 2 * B * K * M * sympy.ceiling(N / Tj) + 2 * B * K * N * sympy.ceiling(M / Ti) + 2 * B * M * N
    assert closed_form(program) == expected
    assert closed_form_terms(program)["c", "write"] == 2 * B * M * N


@pytest.mark.parametrize("features", [{}, {"causal": True}, {"window": [3, 2]}])
def test_closed_form_has_the_value_of_the_walk(features: dict[str, Any]) -> None:
    operator, spec = parts({"op": "attention", **SMALL["attention"], **features})
    for program in operator.schedules(spec):
        env = {**operator.sizes(spec), **dict(program.fixed), **dict.fromkeys(program.tiles, 3)}
        value = closed_form(program)
        value = value.subs({s: env[s.name] for s in value.free_symbols}).doit()
        assert int(value) == traffic_bytes(program).evaluate(env)


def test_a_sum_without_terms_is_zero() -> None:
    operator, spec = parts({"op": "gemm", **SMALL["gemm"]})
    assert level_traffic(operator.schedules(spec)[0]).bytes("smem") == Const(0)
