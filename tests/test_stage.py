"""Tiles that are gathered across the vector lanes are loaded and transposed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashc
from flashc import backends
from flashc.hwmodels import load_device
from flashc.ir.analysis import sites
from flashc.ir.nodes import Copy, Load
from flashc.ops import registry


def staged(**keys: Any) -> list[str]:
    """Tensors beside q, k, v of which the placed kernel loads a tile."""
    document = {"op": "attention", "batch": 2, "heads": 4, "seq": 70, "head_dim": 40, "dtype": "fp32", **keys}
    given = flashc.load_workload(document)
    program = next(p for p in registry()["attention"].schedules(given.spec) if p.schedule == "q_stationary")
    device = load_device("epyc_9654")
    placed = backends.for_device(device).place(program, device)
    walked = [s.stmt for kernel in placed.kernels for s in sites(placed, kernel)]
    copied = {s.source for s in walked if isinstance(s, Copy)}
    loads = [s for s in walked if isinstance(s, Load) and s.out.name in copied]
    return [s.access.tensor for s in loads if s.access.tensor not in "qkv"]


@pytest.mark.parametrize("shape", [[2, 4, 70, 70], [1, 4, 70, 70], [70, 70], [2, 1, 70, 70]])
def test_a_bias_of_rows_and_keys_is_loaded(shape: list[int]) -> None:
    assert staged(bias={"shape": shape}) == ["bias"]


@pytest.mark.parametrize("shape", [[4, 1, 70], [70, 1], [1, 1]])
def test_one_element_per_row_or_key_is_fetched(shape: list[int]) -> None:
    assert staged(bias={"shape": shape}) == []


def test_a_mask_is_fetched() -> None:
    assert staged(mask={"shape": [70, 70]}) == []


def test_computed_indices_are_fetched() -> None:
    score = "score + table[j - i + 69]"
    assert staged(score=score, captures={"table": {"shape": [139]}}) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("rows", "keys"), [(1, 5), (17, 70), (70, 137)])
def test_the_result_is_that_of_a_bias_in_the_score(rows: int, keys: int, dtype: str) -> None:
    """Against the same bias given as a captured table, which is gathered."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 4, n, 24)).astype(np.float32) for n in (rows, keys, keys))
    bias = rng.standard_normal((rows, keys)).astype(dtype)
    flat = np.ascontiguousarray(bias.astype(np.float32).ravel())
    gathered = flashc.attention(q, k, v, score=f"score + table[i * {keys} + j]", captures={"table": flat})
    np.testing.assert_allclose(flashc.attention(q, k, v, bias=bias), gathered, rtol=2e-5, atol=2e-6)
