"""Problems that FlashRNN and its solver ConstrINT are known by, with the right answers (arXiv 2412.07752)."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashc.autotune import Problem, parse_problem, propagate, solve

DATA = Path(__file__).parent / "data"
H100 = {"SMs": 132, "threads_per_block": 1024, "registers_per_block": 131072, "smem_per_block": 227000}
BF16 = {"s": 2, "a": 4, "TK": 16, "pad": 8}
FP32 = {"s": 4, "a": 4, "TK": 8, "pad": 8, "registers_per_block": 65536}
A100 = {"SMs": 108, "smem_per_block": 165888}
SMALL_GPU = {"SMs": 46, "smem_per_block": 100352}


def tiling(direction: str, batch: int, heads: int, size: int, **changes: int) -> Problem:
    """FlashRNN's problem for one pass, with the order in which it prefers tilings."""
    along = {"forward": "g", "backward": "h"}[direction]
    text = (DATA / f"flashrnn_{direction}.cst").read_text(encoding="utf-8")
    given = {"B": batch, "N": heads, "D": size, "G": 4, **H100, **BF16, **changes}
    if given["s"] == 4:
        text += ";\nonly_square_tiles: TB == 16"
    return parse_problem(
        text,
        given=given,
        tie_break=(
            ("TB", "largest"),
            ("Mh", "largest"),
            (f"C{along}", "largest"),
            ("Ck", "smallest"),
            ("Cb", "largest"),
            ("Lb", "largest"),
            (f"L{along}", "smallest"),
            ("Wk", "largest"),
            ("Wb", "largest"),
            ("Q", "largest"),
        ),
    )


def blocks_and_fragments(direction: str, *shape: int, **changes: int) -> tuple[int, int]:
    point = solve(tiling(direction, *shape, **changes)).require()
    along = point["Cg"] if direction == "forward" else point["Ch"]
    return along * point["Ck"] * point["Cb"] * point["Mh"], point["Q"]


@pytest.mark.parametrize(
    ("shape", "forward", "backward"),
    [
        ((16, 48, 16), (96, 1), (48, 1)),
        ((16, 24, 32), (96, 1), (48, 1)),
        ((16, 12, 64), (96, 1), (48, 2)),
        ((16, 6, 128), (96, 2), (48, 4)),
        ((16, 3, 256), (96, 4), (48, 8)),
        ((16, 1, 768), (96, 12), (48, 24)),
    ],
)
def test_headline_shapes_get_the_published_blocks_and_fragments(
    shape: tuple[int, int, int], forward: tuple[int, int], backward: tuple[int, int]
) -> None:
    assert blocks_and_fragments("forward", *shape) == forward
    assert blocks_and_fragments("backward", *shape) == backward


@pytest.mark.parametrize(
    ("shape", "changes", "blocks"),
    [
        ((8, 1, 768), {}, (96, 24)),
        ((32, 1, 768), {}, (128, 96)),
        ((256, 1, 768), {}, (128, 96)),
        ((64, 4, 512), {}, (128, 128)),
        ((8, 1, 1024), {}, (128, 32)),
        ((8, 1, 1536), {}, (96, 48)),
        ((8, 1, 2048), {}, (128, 128)),
        ((8, 1, 2560), {}, (128, 128)),
        ((8, 1, 2688), {}, (126, 126)),
        ((16, 1, 2688), {}, (126, 126)),
        ((16, 1, 768), FP32, (96, 48)),
        ((16, 1, 1536), FP32, (128, 96)),
        ((16, 1, 768), A100, (96, 48)),
        ((16, 1, 768), SMALL_GPU, (32, 24)),
        ((16, 1, 768), {"G": 1}, (48, 48)),
        ((16, 1, 768), {"G": 3}, (72, 48)),
    ],
)
def test_other_shapes_get_the_published_number_of_blocks(
    shape: tuple[int, int, int], changes: dict[str, int], blocks: tuple[int, int]
) -> None:
    assert blocks_and_fragments("forward", *shape, **changes)[0] == blocks[0]
    assert blocks_and_fragments("backward", *shape, **changes)[0] == blocks[1]


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


def test_fp32_does_not_hold_2048() -> None:
    assert solve(tiling("forward", 16, 1, 2048, **FP32)).status == "infeasible"


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


@pytest.mark.parametrize(("size", "tilings"), [(16, 178), (3072, 0)])
def test_number_of_forward_tilings(size: int, tilings: int) -> None:
    """178 tilings of the headline shape with 48 heads of 16: counted by exhaustive search elsewhere."""
    heads, batch = (48, 16) if size == 16 else (1, 8)
    assert solve(tiling("forward", batch, heads, size), engine="enumerate").stats.feasible == tilings


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
