"""Which attention schedule wins: by traffic in words with the walkers, and through tune on toy devices.

docs/model.md says what is found and how it compares with the literature's thresholds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_device import device_file

from flashc.autotune import Constraint, Problem, Variable, solve
from flashc.compiler.tune import Tuning, tune
from flashc.compiler.workload import load_workload
from flashc.hwmodels import load_device
from flashc.ir.analysis import traffic_words
from flashc.ir.footprint import footprint
from flashc.ir.intexpr import Const
from flashc.ir.rewrite import with_sizes
from flashc.ops import registry

HEAD, LENGTH = 128, 4096
SQUARE = HEAD * HEAD  # d^2 words
FINE = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


def attention(length: int = LENGTH) -> dict[str, object]:
    heads = {"q": 1, "kv": 1}
    sizes = {"batch": 1, "heads": heads, "seq": length, "head_dim": HEAD}
    return {"op": "attention", "dtype": "fp32", **sizes}


def least_words(words: int) -> dict[str, float]:
    """Per schedule, words moved per (query, key) pair with the best tiles that ``words`` of memory hold."""
    operator, spec = registry()["attention"], load_workload(attention()).spec
    found: dict[str, float] = {}
    for program in operator.schedules(spec):
        sized = with_sizes(program, {**operator.sizes(spec), "stages": 1})
        tiles = [t for t in sized.tiles if t != "stages"]
        slices = {"Tk": (1,), "Te": (1, 2, 4), "Re": FINE[: FINE.index(HEAD) + 1]}
        domains = {t: slices.get(t, FINE) for t in tiles}
        fits = tuple(
            Constraint(k.name, footprint(sized, k, None), "<=", Const(4 * words)) for k in sized.kernels
        )
        variables = tuple(Variable(t, domains[t]) for t in tiles)
        answer = solve(Problem(variables, fits, traffic_words(sized)))
        found[program.schedule] = answer.objectives[0] / LENGTH**2
    return found


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_below_two_thirds_of_d_squared_stored_scores_move_fewest_words(share: float) -> None:
    """The scores are written once and read once as an operand: 4 nmd/sqrt(M) + nm, not + 2nm."""
    words = least_words(int(share * SQUARE))
    assert min(words, key=lambda s: words[s]) == "stored_scores"
    leading = 1 / share**0.5  # d / sqrt(M); slices and row statistics take a part of M from the tiles
    assert 1.0 < words["stored_scores"] / (4 * leading + 1) < 1.2
    assert 1.0 < words["tile_fused"] / (4.9 * leading) < 1.2


@pytest.mark.parametrize("share", [0.8, 2.0])
def test_above_it_stationary_queries_do(share: float) -> None:
    words = least_words(int(share * SQUARE))
    assert min(words, key=lambda s: words[s]) == "q_stationary"
    assert words["q_stationary"] == pytest.approx(4 / share, rel=0.25)


def tuned(path: Path, monkeypatch: pytest.MonkeyPatch, sram: int, dram: int = 2**40) -> Tuning:
    (path / "toy.yaml").write_text(device_file(sram, dram), encoding="utf-8")
    monkeypatch.setenv("FLASHC_DEVICE_PATH", str(path))
    return tune(load_workload(attention(1024)), load_device("toy"))


def test_each_schedule_wins_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast memory of 4 d^2 words; 0.25 d^2; the same with a slow memory that has no room for the scores."""
    large, small, mebibyte = 16 * SQUARE, SQUARE, 2**20
    assert tuned(tmp_path, monkeypatch, large).best.schedule == "q_stationary"
    assert tuned(tmp_path, monkeypatch, small).best.schedule == "stored_scores"
    narrow = tuned(tmp_path, monkeypatch, small, 4 * mebibyte)
    assert narrow.best.schedule == "tile_fused"


def test_a_workspace_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tuned(tmp_path, monkeypatch, SQUARE, 4 * 2**20)
    conflict = next(r.conflict for r in narrow.rejected if r.schedule == "stored_scores")
    (member,) = conflict.members
    assert member.check.name == "device.workspace"
    tensors = 4 * 1024 * HEAD + 1024 * 1024 + 2 * 1024  # q, k, v, o; scores; row statistics
    assert (member.check.needs, member.check.limit) == (4 * tensors, 4 * 2**20)
    assert "scores" in member.check.knob
