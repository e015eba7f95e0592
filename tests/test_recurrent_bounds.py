"""Lower bounds of recurrent layers, read off the operator's own program."""

from __future__ import annotations

from typing import Any

import pytest

import flashc
from flashc.iomodel.bounds import lower_bounds
from flashc.iomodel.checker import check
from flashc.iomodel.from_program import cascade
from flashc.iomodel.resident import ResidentWeights
from flashc.iomodel.statements import Cascade
from flashc.ops import registry

SHAPE: dict[str, Any] = {"op": "recurrent", "batch": 3, "steps": 17, "heads": 2, "head_dim": 24, "dtype": "bf16"}
MATRICES = {"lstm": 4, "slstm": 4, "gru": 3, "elman": 1}


def statements(**keys: Any) -> tuple[Cascade, dict[str, int]]:
    spec = flashc.load_workload({**SHAPE, **keys}).spec
    operator = registry()["recurrent"]
    return cascade(operator.algorithm(spec), operator.schedules(spec)[0]), operator.sizes(spec)


def resident(found: Cascade) -> list[ResidentWeights]:
    return [b for b in lower_bounds(found) if isinstance(b, ResidentWeights)]


@pytest.mark.parametrize("keys", [{}, {"input_dim": 40}, {"outputs": ["last"]}], ids=str)
@pytest.mark.parametrize("cell", MATRICES)
def test_weights_come_in_again_every_step(cell: str, keys: dict[str, Any]) -> None:
    """docs/bounds.md: W + (T - 1) max(0, W - M) per head where steps do not overlap, ceil(T / 2) for T elsewhere."""
    found, sizes = statements(cell=cell, **keys)
    anyway, apart = sorted(resident(found), key=lambda b: -b.stride)
    weights, steps, heads = MATRICES[cell] * 24 * 24 * 2, 17, 2
    for fast in (0, 100, weights // 2, weights, 10 * weights):
        beyond = max(0, weights - fast)
        assert apart.at(sizes, fast).loads == heads * (weights + (steps - 1) * beyond)
        assert anyway.at(sizes, fast).loads == heads * (weights + (steps + 1) // 2 * beyond - beyond)


@pytest.mark.parametrize("cell", MATRICES)
def test_certificates_are_accepted(cell: str) -> None:
    found, sizes = statements(cell=cell)
    for bound in resident(found):
        check({**bound.certificate(), **bound.numbers(sizes)})


@pytest.mark.parametrize("keys", [{"lengths": [17, 3, 9]}, {"resets": True}], ids=str)
def test_steps_that_may_be_left_out_count_nothing(keys: dict[str, Any]) -> None:
    found, sizes = statements(cell="lstm", **keys)
    assert resident(found) == []
    assert all(bound.at(sizes, 64).loads == 0 for bound in lower_bounds(found))


def test_an_input_is_read_and_an_output_is_written_once() -> None:
    found, sizes = statements(cell="lstm")
    once = next(b for b in lower_bounds(found) if b.rule == "compulsory").at(sizes, float("inf"))
    projected, matrices, bias = 3 * 17 * 4 * 2 * 24, 4 * 2 * 24 * 24, 4 * 2 * 24
    assert once.loads == 2 * (projected + matrices + bias)
    assert once.stores == 2 * 3 * 17 * 2 * 24 + 4 * 2 * (3 * 2 * 24)
