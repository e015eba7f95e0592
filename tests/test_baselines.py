"""Baselines: the same results as the operator's algorithm, the traffic their formulas say, and never offered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashc.compiler.tune import tune
from flashc.compiler.verify import EPSILON, ULPS, random_inputs, relative_error
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.ir.analysis import traffic_bytes, traffic_words
from flashc.ir.interp import interpret
from flashc.ir.nodes import Program
from flashc.ir.verify import verify as well_formed
from flashc.ops import registry

ATTENTION: dict[str, Any] = {
    "op": "attention",
    "batch": 2,
    "heads": {"q": 4, "kv": 2},
    "seq": {"q": 33, "kv": 50},
    "head_dim": 24,
    "value_dim": 40,
    "dtype": "fp32",
    "outputs": ["o", "lse"],
}
GEMM: dict[str, Any] = {"op": "gemm", "batch": 2, "m": 9, "n": 7, "k": 31, "dtype": "fp32"}
CASES: dict[str, dict[str, Any]] = {
    "dense": ATTENTION,
    "causal": {**ATTENTION, "causal": True},
    "rows without keys": {**ATTENTION, "causal": True, "seq": {"q": 50, "kv": 33}},
    "window": {**ATTENTION, "window": [4, 3]},
    "lengths": {**ATTENTION, "kv_lengths": [17, 0]},
    "bias": {**ATTENTION, "bias": {"shape": [33, 50]}, "score": "score * 2 + i / 9"},
    "half": {**ATTENTION, "dtype": "fp16", "causal": True},
    "product": GEMM,
    "transposed product": {**GEMM, "transpose_a": True, "transpose_b": True, "epilogue": "max(acc, 0) + i"},
    "half product": {**GEMM, "dtype": "bf16"},
}


def parts(document: dict[str, Any]) -> tuple[Any, Any]:
    workload = load_workload(document)
    return registry()[workload.op], workload.spec


def named(document: dict[str, Any], name: str) -> tuple[Program, dict[str, Any]]:
    operator, spec = parts(document)
    program = next(p for p in operator.baselines(spec) if p.schedule == name)
    return program, {**operator.sizes(spec), **dict(program.fixed)}


@pytest.mark.parametrize("name", CASES)
def test_a_baseline_computes_the_operator(name: str) -> None:
    operator, spec = parts(CASES[name])
    inputs, params = random_inputs(operator, spec, 0), operator.params(spec)
    tables = {n: np.asarray(x) for n, x in operator.tables(spec).items()}
    env = {**operator.sizes(spec), "Ti": 13, "Tj": 19, "Ri": 11}
    algorithm = operator.algorithm(spec)
    exact = interpret(algorithm, inputs, env, params, exact=True).tensors
    naive = interpret(algorithm, inputs, env, params).tensors
    assert operator.baselines(spec)
    for program in operator.baselines(spec):
        well_formed(program)
        result = interpret(program, inputs, env, params)
        unrounded = interpret(program, inputs, env, params, exact=True).tensors
        for tensor in (t for t in program.tensors if t.role == "out"):
            assert relative_error(unrounded[tensor.name], exact[tensor.name]) < 1e-12
            limit = max(2 * relative_error(naive[tensor.name], exact[tensor.name]), ULPS * EPSILON[spec.dtype])
            assert relative_error(result.tensors[tensor.name], exact[tensor.name]) <= limit
        walked = {**env, **tables, **dict(program.fixed)}
        assert traffic_words(program).evaluate(walked) == result.traffic.words
        assert traffic_bytes(program).evaluate(walked) == result.traffic.bytes


@pytest.mark.parametrize(("n", "m", "keys"), [(100, 96, 32), (64, 100, 32), (40, 30, 64)])
def test_flash_attention_s_first_order_moves_what_its_paper_says(n: int, m: int, keys: int) -> None:
    """Loads 2md + T(2nd + 2n) - (nd + 2n), stores T(nd + 2n) (Dao et al. 2022, algorithm 1; first block not read)."""
    document = {**ATTENTION, "batch": 1, "heads": 1, "seq": {"q": n, "kv": m}, "outputs": ["o"], "value_dim": 24}
    program, sizes = named(document, "kv_stationary")
    blocks, d = -(-m // keys), 24
    expected = 2 * m * d + blocks * (2 * n * d + 2 * n) - (n * d + 2 * n) + blocks * (n * d + 2 * n)
    assert traffic_words(program).evaluate({**sizes, "Ti": 16, "Tj": keys}) == expected


def test_unfused_attention_moves_four_matrices_of_pairs() -> None:
    """Scores and probabilities are each written and read once; with whole tiles every operand is read once."""
    n, m, d, e = 33, 50, 24, 40
    program, sizes = named({**ATTENTION, "batch": 1, "heads": 1, "outputs": ["o"]}, "unfused")
    expected = 4 * n * m + n * d + m * d + m * e + n * e
    assert traffic_words(program).evaluate({**sizes, "Ti": n, "Tj": m, "Ri": 1}) == expected


def test_what_eager_code_stores_has_the_element_type() -> None:
    program, _ = named({**ATTENTION, "dtype": "bf16"}, "unfused")
    assert {t.dtype.name for t in program.tensors if t.role == "temp"} == {"bf16"}


def test_an_unblocked_product_reads_a_row_and_a_column_for_each_element() -> None:
    program, sizes = named(GEMM, "unblocked")
    assert traffic_words(program).evaluate(sizes) == 2 * (2 * 9 * 7 * 31 + 9 * 7)


@pytest.mark.parametrize("document", [ATTENTION, GEMM])
def test_baselines_are_never_offered_to_the_solver(document: dict[str, Any]) -> None:
    operator, spec = parts(document)
    found = tune(load_workload(document), load_device("a100_sxm_80gb"), top_k=50)
    considered = {c.schedule for c in found.ranked} | {r.schedule for r in found.rejected}
    assert considered.isdisjoint(p.schedule for p in operator.baselines(spec))
