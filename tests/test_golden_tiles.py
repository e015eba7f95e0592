"""Tiles that shipped kernels use: feasible on their devices and near the top of the model."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import golden_tiles as golden
import pytest
from golden_tiles import ANCHORS, SHIPPED, Anchor, Shipped, case, complete

DOCUMENT = Path(__file__).parents[1] / "docs" / "golden_tiles.md"


def _id(row: Shipped) -> str:
    return f"{row.source} {row.device} d{row.head_dim}".replace(" ", "-")


@pytest.mark.parametrize("row", SHIPPED, ids=_id)
def test_every_shipped_tile_fits_its_device(row: Shipped) -> None:
    found = case(row.device, row.causal, row.head_dim)
    needs = [golden.device_needs(found, tile) for tile in complete(row)]
    assert any(all(need <= limit for need, limit in each.values()) for each in needs), needs


@pytest.mark.parametrize("row", SHIPPED, ids=_id)
def test_tiles_that_are_powers_of_two_are_legal_for_triton(row: Shipped) -> None:
    powers = all(n & (n - 1) == 0 for n in (row.rows, row.columns))
    assert golden.legal_for_triton(case(row.device, row.causal, row.head_dim), complete(row)) == powers


def test_shipped_tiles_are_near_the_top_of_the_model() -> None:
    ratios = []
    for row in SHIPPED:
        found = case(row.device, row.causal, row.head_dim)
        ratios.append(golden.rank(found, [t for t in complete(row) if golden.feasible(found, t)])[1])
    assert median(ratios) < 1.15
    assert max(ratios) < 1.5


@pytest.mark.parametrize("anchor", ANCHORS, ids=lambda a: "x".join(map(str, (a.head_dim, *a.other))))
def test_tiles_that_were_measured_slower_are_modelled_slower(anchor: Anchor) -> None:
    ratio = golden.modelled(anchor)
    assert ratio > 1.1
    assert 0.8 < ratio / anchor.slower < 1.25


def test_document(request: pytest.FixtureRequest) -> None:
    text = golden.report()
    if request.config.getoption("--update-golden"):
        DOCUMENT.write_text(text, encoding="utf-8")
    same = DOCUMENT.read_text(encoding="utf-8") == text
    assert same, f"if meant: pytest {Path(__file__).name} --update-golden"
