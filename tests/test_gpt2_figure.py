"""docs/gpt2_traffic.md: up to date, and near what Dao et al. 2022 (arXiv 2205.14135, Fig. 2 left) published."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
QUERY_MATRIX = 64 * 16 * 1024 * 64  # elements of q, k, v, o or a gradient
PAIRS_MATRIX = 64 * 16 * 1024 * 1024
ROW_VECTOR = 64 * 16 * 1024


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpt2_traffic")


def test_the_document_is_up_to_date(script: ModuleType) -> None:
    written = (ROOT / "docs" / "gpt2_traffic.md").read_text(encoding="utf-8")
    assert written == script.document(), "run: python benchmarks/gpt2_traffic.py > docs/gpt2_traffic.md"


def test_standard_attention_is_near_the_published_figure(script: ModuleType) -> None:
    assert sum(line.once for line in script.standard()) == pytest.approx(40.3e9, rel=0.05)


def test_every_standard_kernel_moves_the_matrices_it_names(script: ModuleType) -> None:
    """Matrices of pairs and of rows per kernel, counted by hand; fp16, a byte per element of the dropout mask."""
    expected = {
        ("forward", "scores"): (1, 2),
        ("forward", "softmax"): (2, 0),
        ("forward", "values"): (1, 2),
        ("backward", "dv"): (1, 2),
        ("backward", "dprobabilities"): (1, 2),
        ("backward", "dscores"): (3, 0),
        ("backward", "dq"): (1, 2),
        ("backward", "dk"): (1, 2),
        ("forward", "causal mask added to the scores"): (2, 0),
        ("forward", "dropout, with a byte mask"): (2.5, 0),
        ("backward", "dropout"): (2.5, 0),
    }
    found = {(line.where, line.name): line.once for line in script.standard()}
    assert found == {key: 2 * (p * PAIRS_MATRIX + r * QUERY_MATRIX) for key, (p, r) in expected.items()}


@pytest.mark.parametrize("keys", [128, 256, 512])
def test_flash_moves_what_its_loops_say(script: ModuleType, keys: int) -> None:
    """Forward as in the algorithm; backward with dQ stored as zeros first, and delta from dO and O apart."""
    blocks = 1024 // keys
    found = script.flash(keys)
    forward = (2 + 2 * blocks - 1 + blocks) * QUERY_MATRIX + (4 * blocks - 2) * ROW_VECTOR
    backward = (2 + 4 * blocks + 2 + 1 + 2) * QUERY_MATRIX + (2 * blocks + 1) * ROW_VECTOR
    assert (found.forward, found.backward) == (2 * forward, 2 * backward)


def test_the_largest_block_that_fits_is_near_the_published_figure(script: ModuleType) -> None:
    private = (164 + 256) * 1024  # shared memory and registers of an A100's SM
    fitting = [x for x in map(script.flash, script.BLOCKS) if x.held <= private]
    nearest = max(fitting, key=lambda x: x.keys)
    assert nearest.keys == script.PUBLISHED_BLOCK
    assert nearest.total == pytest.approx(4.4e9, rel=0.15)
