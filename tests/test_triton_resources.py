"""Predicted resources against compiled ones: never too little shared memory, and not much too much."""

from __future__ import annotations

import importlib
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from triton_cases import ATTENTION, DEVICES, programs

from flashc.backends.triton import BACKEND
from flashc.hwmodels import load_device

pytestmark = [pytest.mark.triton, pytest.mark.timeout(900)]
TARGETS = tuple(DEVICES)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/triton_resources.py, whose table this is."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("triton_resources")


def _held(rows: list[Any]) -> None:
    under = [(r.target, r.workload, r.tiles, r.predicted_shared, r.shared) for r in rows if r.over < 1]
    assert not under
    least = [
        (r.target, r.workload, r.tiles) for r in rows if r.least_registers > r.registers + r.spilled // 4
    ]
    assert not least
    assert statistics.median(r.over for r in rows) <= 1.5


def test_a_few_tilings(script: ModuleType) -> None:
    _held(list(script.rows([script.TILINGS[0], script.TILINGS[-4]], ("sm_80", "gfx942"))))


@pytest.mark.slow
def test_a_spread_of_tilings_on_every_target(script: ModuleType) -> None:
    """Every twelfth tiling, another twelfth on every target."""
    found = [row for n, target in enumerate(TARGETS) for row in script.rows(script.TILINGS[n::12], (target,))]
    assert len(found) >= 25
    _held(found)


def _refused(tiles: dict[str, int], target: str, **changes: Any) -> set[str]:
    device = load_device(DEVICES[target])
    placed = BACKEND.place(programs({**ATTENTION, "head_dim": 128, **changes})[0], device)
    return {
        c.name
        for c in BACKEND.constraints(placed, device)
        if c.left.evaluate(tiles) > c.right.evaluate(tiles)
    }


def test_what_cannot_fit_is_refused_by_name() -> None:
    large = {"Ti": 256, "Tj": 256, "warps": 4, "stages": 3}
    assert _refused(large, "sm_80") == {"device.smem.attention", "device.regs_min_live.attention"}
    assert "device.tmem.attention" in _refused(large, "sm_100")
    assert _refused({**large, "Ti": 64, "Tj": 32}, "sm_80") == set()


def test_wide_dots_on_the_vector_units_are_refused() -> None:
    tiles = {"Ti": 64, "Tj": 64, "warps": 4, "stages": 1}
    assert "triton.fma_operands.attention" in _refused(tiles, "sm_90", dtype="fp32")
    assert "triton.fma_operands.attention" not in _refused(tiles, "gfx942", dtype="fp32")


def test_more_warps_leave_fewer_registers() -> None:
    tiles = {"Ti": 256, "Tj": 128, "warps": 16, "stages": 1}
    assert "device.regs_min_live.attention" in _refused(tiles, "sm_90", head_dim=256)
