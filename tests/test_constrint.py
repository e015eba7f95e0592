"""Problems that FlashRNN and its solver ConstrINT are known by, with the right answers (arXiv 2412.07752)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from flashrnn_cases import DIRECTIONS, ROWS, Row, blocks, problems, tiling

from flashc.autotune import parse_problem, propagate, solve


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.batch}x{row.heads}x{row.size} {row.where}")
def test_answers_of_flashrnn_s_solver(row: Row) -> None:
    """Both passes: feasible or not, blocks of the launch, and fragments in registers where they are known."""
    answers = [solve(problem) for problem in problems(row)]
    assert tuple(blocks(a.best[0]) if a.best else None for a in answers) == row.blocks
    assert all(answer.status in ("optimal", "infeasible") for answer in answers)
    if row.fragments is not None:
        assert tuple(answer.best[0]["Q"] for answer in answers) == row.fragments


def test_the_document_shows_these_answers() -> None:
    text = (Path(__file__).parent.parent / "docs" / "flashrnn_solver.md").read_text(encoding="utf-8")
    lines = text.partition("## How")[0].splitlines()
    shown = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines if line.startswith("| ")][1:]
    assert shown == [
        [f"{row.batch}, {row.heads}, {row.size}", row.where, direction, "none" if number is None else str(number)]
        for row in ROWS
        for direction, number in zip(DIRECTIONS, row.blocks, strict=True)
    ], "run: python benchmarks/solver.py > docs/flashrnn_solver.md"


def test_largest_head_is_2688() -> None:
    """bf16, batch 8, one head, 132 SMs: 2688 has exactly one forward tiling, and nothing above has any."""
    found = solve(tiling("forward", 8, 1, 2688), k=2)
    assert found.status == "optimal"
    assert len(found.best) == 1
    for size in range(2704, 3088, 16):
        assert solve(tiling("forward", 8, 1, size)).status == "infeasible", size


@pytest.mark.parametrize("size", [2752, 2816, 2880, 3072])
def test_both_engines_prove_that_larger_heads_do_not_fit(size: int) -> None:
    for direction in ("forward", "backward"):
        for engine in ("enumerate", "cpsat"):
            assert solve(tiling(direction, 8, 1, size), engine=engine).status == "infeasible"


@pytest.mark.parametrize(
    ("heads", "size", "direction"),
    [
        (5, 80, "backward"),
        (1, 48, "backward"),
        (1, 1008, "backward"),
        (1, 100, "forward"),
        (1, 100, "backward"),
    ],
)
def test_sizes_off_the_tile_are_infeasible_by_divisibility(heads: int, size: int, direction: str) -> None:
    """Batch 8 needs D % 32 == 0 in the backward pass, and D % 16 == 0 in any: propagation alone proves it."""
    answer = solve(tiling(direction, 8, heads, size))
    assert (answer.status, answer.engine) == ("infeasible", "propagation")


def test_why_100_is_infeasible() -> None:
    conflict = solve(tiling("forward", 8, 1, 100)).conflict
    assert conflict is not None
    assert conflict.minimal
    assert str(conflict) == "k_split: is 100, must be a multiple of 16"


@pytest.mark.parametrize(
    ("batch", "heads", "size"), [(16, 48, 16), (8, 1, 1024), (8, 1, 2560), (8, 1, 2688), (8, 1, 3072)]
)
def test_every_forward_tiling_is_found(batch: int, heads: int, size: int) -> None:
    """All tilings, against plain loops over divisors."""
    answer = solve(tiling("forward", batch, heads, size), k=10**6, engine="enumerate")
    expected = list(forward_tilings(batch, heads, size))
    assert answer.stats.feasible == len(expected)
    assert sorted(tuple(sorted(p.items())) for p in answer.best) == sorted(tuple(sorted(p.items())) for p in expected)


@pytest.mark.parametrize(
    ("batch", "heads", "size", "tilings", "points"),
    [(16, 48, 16, 178, 178), (8, 1, 2560, 2, 16), (8, 1, 2688, 1, 1), (8, 1, 3072, 0, 0)],
)
def test_numbers_of_tilings(batch: int, heads: int, size: int, tilings: int, points: int) -> None:
    """Known counts leave out how many fragments (Q) are kept in registers: 2560 has 2 tilings, 16 points."""
    found = solve(tiling("forward", batch, heads, size), k=10**6, engine="enumerate").best
    assert len(found) == points
    assert len({tuple(value for name, value in point.items() if name != "Q") for point in found}) == tilings


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def forward_tilings(batch: int, heads: int, size: int) -> Iterator[dict[str, int]]:
    """FlashRNN's forward lines in bf16 on 132 SMs, by plain loops (4 gates, tiles of 16 along K)."""
    fragments = size // 16 if size % 16 == 0 else 0
    for tile_b, tile_g in ((8, 32), (16, 16), (32, 8)):
        gates = 4 * size // tile_g if 4 * size % tile_g == 0 else 0
        rows = batch // tile_b if batch % tile_b == 0 else 0
        for heads_now, cg, ck, cb in product(*map(divisors, (heads, gates, fragments, rows))):
            if heads_now * cg * ck * cb > 132:
                continue
            loops = (divisors(gates // cg), divisors(fragments // ck), divisors(rows // cb), (1, 2, 3, 4))
            for lg, wk, wb, lb in product(*loops):
                warps, rest = divmod(wk * wb * size * 4, cg * lg * tile_g)
                if rest or warps > 8 or rows % (cb * wb * lb):
                    continue
                for q in range(1, size // (ck * wk * 16) + 1):
                    share = 16 * tile_g * q * warps // wb
                    registers = share + warps * tile_b * tile_g * lb * 2 + warps * tile_b * 16
                    weights = 8 * cb * size * size + 64 * size * cb + 64 - 2 * share * cb * cg * ck
                    results = 4 * wk * ck * (cb * wb * lb) * tile_b * (4 * size + 8 * cg)
                    if registers <= 131072 and weights + results <= 227000 * cg * ck * cb:
                        yield {
                            "TB": tile_b, "TG": tile_g, "Mh": heads_now, "Cg": cg, "Ck": ck, "Cb": cb,
                            "Wk": wk, "Wb": wb, "W": warps, "Lb": lb, "Lg": lg, "Q": q,
                        }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "domains"),
    [
        ("x in 1..1000000; 5*x == 10", {"x": [2]}),
        ("x in 1..1000000; 5*x <= 15; x + 1 <= 3", {"x": [1, 2]}),
        ("x in 1..1000000; x^2 == 9", {"x": [3]}),
        ("a in 1..1000000; a^2 == 9 | a^2 == 16", {"a": [3, 4]}),
        ("a in 1..20; b in 1..20; a*b == 15", {"a": [1, 3, 5, 15], "b": [1, 3, 5, 15]}),
        ("a in 5..20; b in 1..20; a + b == 15", {"a": list(range(5, 15)), "b": list(range(1, 11))}),
        ("b in 1..1000000; 10 + b <= 15", {"b": [1, 2, 3, 4, 5]}),
        ("b in 1..1000000; 10*b <= 30", {"b": [1, 2, 3]}),
        ("a in 1..1000000; a % 2 == 0; a <= 5", {"a": [2, 4]}),
        ("b in 1..1000000; 512 % b == 0", {"b": [2**i for i in range(10)]}),
        ("a in 1..10; b in 1..10; 10^4 % (a*b) == 0", {"a": [1, 2, 4, 5, 8, 10], "b": [1, 2, 4, 5, 8, 10]}),
        ("a in 1..9; b in 1..9; a + b <= 5; a + b <= 2", {"a": [1], "b": [1]}),
        ("a in 1..9; b in 1..9; a + b <= 5 | a + b <= 2", {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}),
        ("a in 1..9; a == 5 | a == 3", {"a": [3, 5]}),
    ],
)
def test_domains_after_propagation(text: str, domains: dict[str, list[int]]) -> None:
    left = propagate(parse_problem(text))
    assert {
        name: list(domain.values or ()) if domain.values is None else domain.values.tolist()
        for name, domain in left.items()
    } == domains


def test_several_solutions_are_distinct_and_complete() -> None:
    problem = parse_problem("A in [1, 2]; B in [3, 4]")
    expected = [{"A": a, "B": b} for a in (1, 2) for b in (3, 4)]
    for k in (1, 3, 4, 5):
        for engine in ("enumerate", "cpsat"):
            assert list(solve(problem, k=k, engine=engine).best) == expected[:k]
    without = parse_problem("A in [1, 2]; B in [3, 4]; A != 1 | B != 3")
    assert list(solve(without, k=9).best) == expected[1:]


@pytest.mark.parametrize(
    "text",
    [
        "a in 1..1000000; a == 5; a == 3",
        "G in [1]; H in [2976]; T in [54]; G*H % T == 0",
        "A in [7]; B in [2]; A % B == 0",
        "X in [2]; Y in [91]; Y % X == 0",
    ],
)
def test_contradictions_that_constrint_missed_or_never_left(text: str) -> None:
    for engine in ("auto", "cpsat"):
        answer = solve(parse_problem(text), engine=engine)
        assert (answer.status, answer.best) == ("infeasible", ())


def test_91_is_not_prime() -> None:
    problem = parse_problem("x in 1..1000; 91 % x == 0")
    assert [point["x"] for point in solve(problem, k=9).best] == [1, 7, 13, 91]


def test_repeated_variables_are_complete() -> None:
    assert solve(parse_problem("X in 1..1073741824; X*X == 16"), k=5).best == ({"X": 4},)


FILE_CASE = """
H in 16..4096;  TG in [8, 16, 32];  Tg in 1..108;  Tk in 1..108;
gates: H % (Tg*TG) == 0;  inputs: H % (Tk*16) == 0;  one_wave: Tg*Tk <= 108;
smem: 2*H*H <= 165000*Tg*Tk
"""


def test_file_case_has_no_solution_and_2912_is_the_largest() -> None:
    """One recurrent gate on 108 SMs of 165 000 B: the divisibility and capacity lines of that case."""
    for engine in ("enumerate", "cpsat"):
        assert solve(parse_problem(FILE_CASE + "; H >= 2976"), engine=engine).status == "infeasible"
    assert solve(parse_problem(FILE_CASE, objective="-H")).require()["H"] == 2912
