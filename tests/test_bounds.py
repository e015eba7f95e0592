"""Lower bounds: the published constants, recognition by shape, and no schedule of ours below them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.iomodel.bounds import attention_words, fast_memory_bytes, lower_bounds
from flashc.ir.analysis import footprint, traffic_bytes
from flashc.ops import registry


def _bounds(document: dict[str, Any], fast: int | None) -> dict[str, float]:
    workload = load_workload(document)
    operator = registry()[workload.op]
    spec = workload.spec
    schedule = operator.schedules(spec)[0]
    env = {**operator.sizes(spec), **operator.tables(spec)}
    return {b.name: b.bytes for b in lower_bounds(operator.algorithm(spec), schedule, env, fast)}


def _attention(**more: Any) -> dict[str, Any]:
    return {"op": "attention", "batch": 1, "heads": 1, "seq": 1024, "head_dim": 64, "dtype": "fp32", **more}


def test_large_memory_regime_is_4_e_d2_over_m() -> None:
    d, fast, pairs = 64, 6 * 64 * 64, 10**6
    assert attention_words(pairs, d, d, fast) == pytest.approx(4 * pairs * d * d / fast)


def test_small_memory_regime_is_2_e_d_over_sqrt_m() -> None:
    d, fast, pairs = 64, 2 * 64 * 64, 10**6
    assert attention_words(pairs, d, d, fast) == pytest.approx(2 * pairs * d / math.sqrt(fast))


def test_between_the_regimes_the_bound_is_the_balanced_block() -> None:
    d, pairs = 64, 10**6
    fast = 4 * d * d
    assert attention_words(pairs, d, d, fast) == pytest.approx(
        (9.481 * d * d - fast) * pairs / (5.618 * d * d), rel=1e-3
    )


def test_compulsory_counts_each_input_and_output_once() -> None:
    assert _bounds(_attention(), None)["compulsory"] == 4 * 4 * 1024 * 64


def test_compulsory_of_shared_heads_and_lengths_counts_what_is_read() -> None:
    grouped = _attention(batch=2, heads={"q": 8, "kv": 2}, kv_lengths=[1024, 10])
    keys = 2 * 2 * (1024 + 10) * 64
    assert _bounds(grouped, None)["compulsory"] == 4 * (2 * 2 * 8 * 1024 * 64 + keys)


def test_causal_halves_the_kept_pairs() -> None:
    full, causal = (_bounds(_attention(causal=c), 64 * 1024)["attention A"] for c in (False, True))
    assert causal / full == pytest.approx((1024 + 1) / (2 * 1024))


def test_theorem_needs_two_contractions_with_a_row_reduction_between() -> None:
    gemm = {"op": "gemm", "m": 512, "n": 512, "k": 512, "dtype": "fp32"}
    found = _bounds(gemm, 4 * 4096)
    assert set(found) == {"compulsory", "matmul"}
    assert found["matmul"] == pytest.approx(4 * 2 * 512**3 / math.sqrt(4096))


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("schedule", range(3))
def test_no_schedule_goes_below_the_bound_of_its_own_footprint(schedule: int, head_dim: int) -> None:
    workload = load_workload(_attention(seq=512, head_dim=head_dim, causal=True))
    operator, spec = registry()["attention"], workload.spec
    program = operator.schedules(spec)[schedule]
    for tile in (8, 16, 64, 128):
        env = {
            **operator.sizes(spec),
            **{t: min(tile, head_dim) if t[1:] in "ke" else tile for t in program.tiles},
            "stages": 1,
        }
        env.update(dict(program.fixed))
        fast = max(footprint(program, k, None).evaluate(env) for k in program.kernels)
        best = lower_bounds(operator.algorithm(spec), program, env, fast)[0]
        assert traffic_bytes(program).evaluate(env) >= best.bytes


def test_fast_memory_of_a_gpu_core_is_shared_memory_and_registers() -> None:
    device = load_device("a100_sxm_80gb")
    assert fast_memory_bytes(device) == 167936 + 262144
