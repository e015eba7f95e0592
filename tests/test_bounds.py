"""Bounds of the package's operators: compulsory counts, recognition by shape, and no schedule of ours below them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from flashc.compiler.workload import load_workload
from flashc.iomodel.bound import best
from flashc.iomodel.bounds import lower_bounds
from flashc.iomodel.from_program import cascade
from flashc.ir.analysis import traffic_bytes
from flashc.ir.footprint import footprint
from flashc.ops import registry

WORKLOADS = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))


def _bounds(document: dict[str, Any], fast: float) -> dict[str, float]:
    workload = load_workload(document)
    operator, spec = registry()[workload.op], workload.spec
    env = {**operator.sizes(spec), **operator.tables(spec)}
    found = lower_bounds(cascade(operator.algorithm(spec), operator.schedules(spec)[0]))
    return {b.rule: b.at(env, fast).total for b in reversed(found)}


def _attention(**more: Any) -> dict[str, Any]:
    return {"op": "attention", "batch": 1, "heads": 1, "seq": 1024, "head_dim": 64, "dtype": "fp32", **more}


def test_compulsory_counts_each_input_and_output_once() -> None:
    assert _bounds(_attention(), math.inf)["compulsory"] == 4 * 4 * 1024 * 64


def test_compulsory_of_shared_heads_and_lengths_counts_what_is_read() -> None:
    grouped = _attention(batch=2, heads={"q": 8, "kv": 2}, kv_lengths=[1024, 10])
    keys = 2 * 2 * (1024 + 10) * 64
    assert _bounds(grouped, math.inf)["compulsory"] == 4 * (2 * 2 * 8 * 1024 * 64 + keys)


def test_grouped_heads_change_compulsory_traffic_only() -> None:
    """The query heads of a group are more rows for the same keys."""
    plain, grouped = (_bounds(_attention(heads={"q": 8, "kv": kv}), 4 * 256.0) for kv in (8, 2))
    for rule in ("attention A", "attention B", "sum s + acc"):
        assert grouped[rule] == pytest.approx(plain[rule])
    assert grouped["compulsory"] < plain["compulsory"]


def test_a_product_has_no_attention_bound() -> None:
    gemm = {"op": "gemm", "m": 512, "n": 512, "k": 512, "dtype": "fp32"}
    found = _bounds(gemm, 4 * 4096)
    assert set(found) == {"compulsory", "statement acc"}
    assert found["statement acc"] == pytest.approx(4 * 2 * 512**3 / math.sqrt(4096))


def test_a_narrow_product_counts_its_bytes() -> None:
    """fp16 operands and result: 2 m n k / sqrt(M) words of 2 bytes, however wide the accumulator is."""
    gemm = {"op": "gemm", "m": 512, "n": 512, "k": 512, "dtype": "fp16"}
    assert _bounds(gemm, 2 * 4096)["statement acc"] == pytest.approx(2 * 2 * 512**3 / math.sqrt(4096))


@pytest.mark.parametrize("path", WORKLOADS, ids=lambda p: p.stem)
def test_no_workload_has_a_bound_above_unlimited_traffic_of_its_schedules(path: Path) -> None:
    """Each schedule at small tiles moves at least the bound for the memory that these tiles take."""
    workload = load_workload(path)
    operator, spec = registry()[workload.op], workload.spec
    spec = operator.reduced(spec)
    env = {**operator.sizes(spec), **operator.tables(spec)}
    found = lower_bounds(cascade(operator.algorithm(spec), operator.schedules(spec)[0]))
    for program in operator.schedules(spec):
        tiles = {**dict.fromkeys(program.tiles, 8), "stages": 1}
        numbers = {**env, **dict(program.fixed), **tiles}
        fast = max(footprint(program, k, None).evaluate(numbers) for k in program.kernels)
        moved, bound = best(found, env, fast)
        assert traffic_bytes(program).evaluate(numbers) >= moved.total, bound.rule


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
        least, _ = best(lower_bounds(cascade(operator.algorithm(spec), program)), env, fast)
        assert traffic_bytes(program).evaluate(env) >= least.total
