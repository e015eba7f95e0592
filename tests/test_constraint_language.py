"""The constraint language: what it accepts, what it means, and errors that name line and column."""

from __future__ import annotations

import pytest

from flashc.autotune import (
    AllOf,
    AnyOf,
    Constraint,
    Interval,
    Variable,
    parse_constraints,
    parse_problem,
    solve,
)
from flashc.errors import ConstraintError
from flashc.ir.intexpr import Const, Sym

X, Y = Sym("x"), Sym("y")
DECLARED = "x in 1..9; y in 1..9; "


def solutions(text: str) -> list[tuple[int, ...]]:
    return [tuple(point.values()) for point in solve(parse_problem(text), k=100).best]


@pytest.mark.parametrize(
    ("text", "left", "op", "right"),
    [
        ("x <= y", X, "<=", Y),
        ("x < y", X + 1, "<=", Y),
        ("x >= y", Y, "<=", X),
        ("x > y", Y + 1, "<=", X),
        ("x == y - 1", X, "==", Y - 1),
        ("x != 2*y", X, "!=", 2 * Y),
        ("x*y % (2*x + 1) == 0", X * Y, "%==0", 2 * X + 1),
        ("x % 3 == 1", X % 3, "==", Const(1)),
        ("(x + 1) * 2 <= 8", 2 * X + 2, "<=", Const(8)),
        ("((x)) <= (((y)))", X, "<=", Y),
    ],
)
def test_relations(text: str, left: object, op: str, right: object) -> None:
    (found,) = parse_constraints(text)
    assert isinstance(found, Constraint)
    assert (found.left, found.op, found.right) == (left, op, right)
    assert found.name == text


def test_declarations() -> None:
    problem = parse_problem("x in [4, 2, 8]; kv.0 in -3..3;")
    assert problem.variables == (Variable("x", (4, 2, 8)), Variable("kv.0", Interval(-3, 3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x in 1..3; y in 1..3; x + y == 4; x != y", [(1, 3), (3, 1)]),
        ("x in 1..9; x < 3 | x > 8", [(1,), (2,), (9,)]),
        ("x in 1..9; x in [2, 5] | x == 7", [(2,), (5,), (7,)]),
        ("x in 1..9; (x in 3..4) | x == 7", [(3,), (4,), (7,)]),
        ("x in 1..9; y in [1, 2]; (x == 1; y == 2) | (x == 5; y == 1)", [(1, 2), (5, 1)]),
        ("x in 1..9; ((x >= 3) | x == 1); x <= 4", [(1,), (3,), (4,)]),
        ("x in 1..9; (x <= 2 | x == 9; x != 1) | x == 4", [(2,), (4,), (9,)]),
        ("x in 1..9; x ^ 3 == 27", [(3,)]),
        (
            "x in 1..30; ceil(x / 7) * 2 == max(4, min(x, 3)); x // 5 == 2",
            [(10,), (11,), (12,), (13,), (14,)],
        ),
        ("x in 1..9; sum(i < x: i) == 10", [(5,)]),
        ("x in 1..9; (sum(i < x: i) + 1) * 2 == 22", [(5,)]),
        ("# a comment; x <= 3\nx in 1..2 # another\n", [(1,), (2,)]),
    ],
)
def test_meaning(text: str, expected: list[tuple[int, ...]]) -> None:
    assert solutions(text) == expected


def test_labels_name_conditions_and_text_names_the_others() -> None:
    found = parse_constraints("smem: 2*x <= 8;\n  x <=\n 3;  x <= 3 | y == 1;  both: (x <= 1; y <= 2)")
    assert [part.name for part in found] == ["smem", "x <= 3", "x <= 3 | y == 1", "both"]
    assert [type(part) for part in found] == [Constraint, Constraint, AnyOf, AllOf]


def test_repeated_text_gets_a_number() -> None:
    assert [part.name for part in parse_constraints("x <= 3; x <= 3; x <= 3")] == [
        "x <= 3",
        "x <= 3 (2)",
        "x <= 3 (3)",
    ]


def test_given_values_replace_names_everywhere() -> None:
    problem = parse_problem(
        "D in 1..4096; x in 1..9; x * D <= s * 20", given={"D": 4, "s": 1}, objective="-x * D"
    )
    assert problem.names == ("x",)
    assert solve(problem).objectives == (-20,)
    with pytest.raises(ConstraintError, match="given D = 0 is outside"):
        parse_problem("D in 1..4096", given={"D": 0})


def test_text_printed_by_a_condition_reads_back() -> None:
    text = "x*y % (2*x + 1) == 0; x <= 3 | (y == 1; x != 2); ceil(x / 2) <= y"
    conditions = parse_constraints(text)
    again = parse_constraints("; ".join(map(str, conditions)))
    for x in range(1, 9):
        for y in range(1, 9):
            point = {"x": x, "y": y}
            assert [part.holds(point) for part in conditions] == [part.holds(point) for part in again]


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        (DECLARED + "x - 3", "column 28", "expected one of <="),
        ("x in 1..9; x <= 3 4", "column 19", "found '4'"),
        ("x in 1..9;\nx <= 3 &&", "line 2, column 8", "'&'"),
        ("1 <= x <= 5", "column 8", "comparisons do not chain"),
        ("x in 1..9; x = 3", "column 14", "found '='"),
        ("x in {1, 2}", "column 6", "found '{'"),
        ("x in [1, 2", "column 11", r"expected '\]'"),
        ("x in [1, y]", "column 10", "expected an integer"),
        ("x in 4", "column 7", r"a domain is written \[1, 2, 4\] or 1\.\.64"),
        ("x in 1..9; x in 1..3", "column 12", "declared twice"),
        ("x in 1..9; (x <= 3; x >= ) | x == 1", "column 26", "found '\\)'"),
        ("x in 1..9; (x <= 3) + 1 <= 4", "column 21", "found '\\+'"),
        ("x in 1..9; x % 0 == 0", "column 16", "division by zero"),
        ("min in 1..9", "column 1", "cannot be a variable"),
        ("x <= ", "column 6", "end of text"),
        (";", "column 1", "found ';'"),
        ("(" * 65 + "x", "column 65", "brackets nest deeper"),
    ],
)
def test_errors_name_the_place(text: str, where: str, words: str) -> None:
    with pytest.raises(ConstraintError, match=words) as caught:
        parse_problem(text)
    assert where in str(caught.value)
    assert "^" in str(caught.value)


def test_undeclared_names_are_refused() -> None:
    with pytest.raises(ConstraintError, match="constraint 'x <= z': 'z' is not declared; known: x"):
        parse_problem("x in 1..9; x <= z")
    with pytest.raises(ConstraintError, match="the objective: 'q' is not declared"):
        parse_problem("x in 1..9", objective="q")


def test_bad_objectives_and_declarations_among_conditions() -> None:
    with pytest.raises(ConstraintError, match="column 3"):
        parse_problem("x in 1..9", objective="x x")
    with pytest.raises(ConstraintError, match="'x' is declared"):
        parse_constraints("x in 1..9; x <= 3")
