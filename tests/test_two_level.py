"""The two-level optimum: near the bounds where they are tight, equal to brute force, and what larger tiles cost."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import pytest

from flashc.autotune.two_level import Optimum, forced_tile_cost, optimum
from flashc.compiler.workload import load_workload
from flashc.errors import ConstraintError
from flashc.iomodel.attention import attention_bounds
from flashc.iomodel.bound import best
from flashc.iomodel.from_program import cascade
from flashc.ir.analysis import traffic_words
from flashc.ir.footprint import footprint
from flashc.ir.nodes import Program
from flashc.ops import registry


@cache
def built(op: str, **more: Any) -> tuple[Program, dict[str, Program], dict[str, Any]]:
    workload = load_workload({"op": op, "dtype": "fp32", **more})
    operator, spec = registry()[op], workload.spec
    schedules = {p.schedule: p for p in operator.schedules(spec)}
    return operator.algorithm(spec), schedules, {**operator.sizes(spec), **operator.tables(spec)}


def attention(seq: int, head_dim: int, **more: Any) -> tuple[Program, dict[str, Program], dict[str, Any]]:
    return built("attention", batch=1, heads=1, seq=seq, head_dim=head_dim, **more)


def square(n: int) -> tuple[Program, dict[str, Any]]:
    _, schedules, sizes = built("gemm", m=n, n=n, k=n)
    return schedules["output_stationary"], sizes


def least(program: Program, sizes: dict[str, Any], fast: int, **more: Any) -> Optimum:
    found = optimum(program, sizes, fast, **more)
    assert found is not None
    return found


@pytest.mark.parametrize("d", [64, 96, 128, 256])
@pytest.mark.parametrize("share", [4.0, 4.4, 5.0, 8.0, 23.0, 60.0])
def test_attention_is_within_five_percent_of_its_bound(d: int, share: float) -> None:
    """kv tile of one column, M >= 4 d^2, n >= 32 M / d; no schedule here computes a score twice, so B holds too."""
    fast = int(share * d * d)
    algorithm, schedules, sizes = attention(32 * fast // d, d)
    bounds = attention_bounds(cascade(algorithm, schedules["q_stationary"]))
    words = best(bounds, sizes, 4 * fast)[0].total / 4
    found = {name: least(p, sizes, fast) for name, p in schedules.items()}
    winner = min(found.values(), key=lambda o: o.traffic)
    assert (winner.schedule, dict(winner.tiles)["Tj"]) == ("q_stationary", 1)
    assert 1 <= winner.traffic / words <= 1.05
    assert all(o.traffic >= words for o in found.values())


@pytest.mark.parametrize("fast", [4_000, 16_000, 57_000])
def test_gemm_is_within_two_percent_of_its_bound(fast: int) -> None:
    """2 m n k / sqrt(M) (Smith et al. 2017) at m = n = k = 65536: the output's own words are below 0.2 %."""
    program, sizes = square(65536)
    ratio = least(program, sizes, fast).traffic / (2 * 65536**3 / math.sqrt(fast))
    assert 1 <= ratio <= 1.02


def test_gemm_comes_closer_as_memory_grows() -> None:
    program, sizes = square(2**18)
    ratios = [least(program, sizes, m).traffic / (2 * 2**54 / math.sqrt(m)) for m in (250, 1000, 4000, 16000)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 1.01


@pytest.mark.parametrize(("share", "winner"), [(0.08, "stored_scores"), (0.45, "stored_scores"), (2.0, "q_stationary")])
def test_leading_terms_and_regimes(share: float, winner: str) -> None:
    """With x = d / sqrt(M), per pair: 4 x^2, 2 sqrt(6) x and 4 x + 1; the second is never the least of the three."""
    x = 1 / math.sqrt(share)
    leading = {"q_stationary": 4 * x**2, "tile_fused": 2 * math.sqrt(6) * x, "stored_scores": 4 * x + 1}
    _, schedules, sizes = attention(2**17, 256)
    moved = {s: least(schedules[s], sizes, int(share * 256**2)).traffic / 2**34 for s in leading}
    assert min(moved, key=lambda s: moved[s]) == winner
    for name, value in moved.items():
        assert value == pytest.approx(leading[name], rel=0.15)


def test_the_search_finds_what_brute_force_finds() -> None:
    program, sizes = square(60)
    for fast in (20, 150, 700, 3700):
        fits = [(a, b) for a, b in itertools.product(range(1, 61), repeat=2) if min(a * b + a, a * b + b) + 1 <= fast]
        moved = [60 * 60 * (-(-60 // a) + -(-60 // b)) + 60 * 60 for a, b in fits]
        assert least(program, sizes, fast).traffic == min(moved)


def test_triangles_are_searched_as_well_as_squares() -> None:
    _, schedules, sizes = attention(40, 8, causal=True)
    program = schedules["q_stationary"]
    traffic = traffic_words(program)
    for fast in (60, 200, 420):
        found = least(program, sizes, fast, whole_tiles=True)
        room = footprint(program, program.kernels[0], None, words=True)
        every = [{**sizes, **dict(program.fixed), "Ti": a, "Tj": b, "stages": 1}
                 for a, b in itertools.product(range(1, 41), repeat=2)]
        brute = min(traffic.evaluate(env) for env in every if room.evaluate(env) <= fast) if fast > 300 else None
        assert brute is None or found.traffic <= brute
        assert found.traffic == traffic.evaluate({**sizes, **dict(program.fixed), **dict(found.tiles)})


def test_memory_never_hurts_and_infinite_memory_reads_everything_once() -> None:
    _, schedules, sizes = attention(512, 32)
    totals = [least(schedules["q_stationary"], sizes, m).traffic for m in (110, 300, 1000, 3000, 10**4, 10**6)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] == 4 * 512 * 32


def test_rows_one_at_a_time_need_less_room_than_whole_tiles() -> None:
    _, schedules, sizes = attention(4096, 64)
    tiles = {"Ti": 64, "Tj": 16}
    rows, whole = (least(schedules["q_stationary"], sizes, 10**5, fixed=tiles, whole_tiles=w) for w in (False, True))
    assert rows.traffic == whole.traffic
    resident = 64 * (64 + 64 + 2)
    assert resident + 2 * 16 * 64 < rows.footprints[0][1] < resident + 2 * 16 * 64 + 64
    assert whole.footprints[0][1] >= resident + 64 * 16


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_a_larger_kv_tile_costs_what_it_takes_from_the_rows(tile: int) -> None:
    """(1 + b / 2 d) / (1 - 2 b d / M) has K and V there at once; walked, K is gone when V comes; rows keep state."""
    d, fast = 128, 16 * 128**2
    _, schedules, sizes = attention(2**17, d)
    cost = forced_tile_cost(schedules["q_stationary"], sizes, fast, {"Tj": tile})
    assert cost is not None
    low = (1 + tile / (2 * d)) / (1 - tile * d / fast)
    high = (1 + tile / (2 * d)) / (1 - 2 * tile * d / fast)
    assert 0.98 * low <= cost <= 1.03 * high


def test_bytes_count_each_value_at_its_width() -> None:
    _, schedules, sizes = built("attention", batch=1, heads=1, seq=1024, head_dim=64)
    program = schedules["q_stationary"]
    words, wide = least(program, sizes, 10_000), least(program, sizes, 40_000, objective="bytes")
    assert wide.tiles == words.tiles
    assert wide.traffic == 4 * words.traffic


def test_what_does_not_fit_has_no_optimum() -> None:
    program, sizes = square(64)
    assert optimum(program, sizes, 2) is None
    assert forced_tile_cost(program, sizes, 100, {"Ti": 64, "Tj": 64}) is None
    with pytest.raises(ConstraintError, match="'Tz' is not a tile"):
        optimum(program, sizes, 100, fixed={"Tz": 4})
