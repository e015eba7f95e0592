"""Problems that fall apart are solved by parts, with the same answers; named values inside expressions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc.autotune import Constraint, Problem, Variable, decompose, solve
from flashc.autotune.propagate import propagate
from flashc.ir.intexpr import Const, IntExpr, Sym, ceil_div, imax, isum
from flashc.ir.let import Let, Names

A, B, C, D, S = (Sym(name) for name in "abcds")
small = st.integers(-3, 3)


def part(x: Sym, y: Sym) -> st.SearchStrategy[IntExpr]:
    """One opaque term in two variables of its own and the shared one."""
    return st.tuples(small, small, small).map(lambda k: imax(k[0] * x * y + k[1] * S, k[2] * y - x))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    constraints = (
        Constraint("first", draw(small) * A + B, "<=", Const(draw(st.integers(0, 6)))),
        Constraint("second", C * S, "<=", D + draw(st.integers(0, 6))),
    )
    variables = tuple(Variable(name, (0, 1, 2, 3)) for name in "abcd")
    ties = draw(st.permutations("abcds"))[: draw(st.integers(0, 5))]
    return Problem(
        (*variables, Variable("s", (1, 2))),
        constraints,
        draw(part(A, B)) + draw(part(C, D)) + draw(small) * S,
        tuple((name, draw(st.sampled_from(["smallest", "largest"]))) for name in ties),
    )


@given(problems(), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_parts_give_the_k_best_of_brute_force(problem: Problem, k: int) -> None:
    rows = []
    for values in itertools.product(*(v.domain for v in problem.variables)):
        point = dict(zip(problem.names, values, strict=True))
        if all(c.holds(point) for c in problem.constraints):
            assert problem.objective is not None
            ties = [sign * point[name] for name, sign in problem.ranking()]
            rows.append((problem.objective.evaluate(point), ties, point))
    rows.sort(key=lambda row: row[:2])
    answer = solve(problem, k=k, engine="enumerate")
    assert list(answer.best) == [point for _, _, point in rows[:k]]
    assert answer.stats.feasible in (len(rows), None if rows else 0)


def test_a_problem_falls_apart_where_only_shared_variables_connect_it() -> None:
    objective = imax(A * B, S) + imax(C * D, S)
    variables = tuple(Variable(name, (1, 2, 3)) for name in "abcds")
    apart = Problem(variables, (Constraint("c", A + S, "<=", B),), objective)
    found = decompose.split(apart, propagate(apart))
    assert found is not None
    assert found.shared == ("s",)
    assert {frozenset(p.names) for p in found.parts} == {frozenset("abs"), frozenset("cds")}
    joined = Problem(variables, (Constraint("c", A, "<=", C),), objective)
    assert decompose.split(joined, propagate(joined)) is None
    assert decompose.split(Problem(variables, (), A * B * C * D * S), propagate(apart)) is None


def test_parts_look_at_fewer_rows() -> None:
    domain = tuple(range(1, 31))
    objective = imax(A * B, S) + imax(C * D, 2 * S)
    problem = Problem(tuple(Variable(name, domain) for name in "abcds"), (), objective)
    answer = solve(problem)
    assert answer.best[0] == {"a": 1, "b": 1, "c": 1, "d": 1, "s": 1}
    assert answer.stats.candidates is not None
    assert answer.stats.candidates < 10**5 < 30**5 == answer.stats.feasible


def doubled(times: int) -> tuple[Names, IntExpr]:
    names = Names("kernel")
    value: IntExpr = A + B
    for step in range(times):
        value = names.name(f"v{step}", value + imax(value, 0))
    return names, value


def test_named_values_are_worked_out_once() -> None:
    """As a tree the expression would have 2^60 leaves."""
    names, value = doubled(60)
    closed = names.close(value)
    assert closed.evaluate({"a": 1, "b": 2}) == 3 * 2**60
    assert len(str(closed)) < 10_000


def test_named_values_evaluate_like_their_expansion() -> None:
    inner = isum("v", ceil_div(A, 3), Sym("v") * B)
    names = Names("k")
    twice = names.name("sum", inner)
    closed, expanded = names.close(twice * twice + A), inner * inner + A
    grid = {"a": np.arange(1, 40), "b": np.arange(1, 40)[::-1].copy()}
    np.testing.assert_array_equal(closed.evaluate_array(grid), expanded.evaluate_array(grid))
    assert closed.evaluate({"a": 17, "b": 5}) == expanded.evaluate({"a": 17, "b": 5})
    assert closed.symbols() == {"a", "b"}
    assert closed.subs({"b": 7}).evaluate({"a": 10}) == expanded.evaluate({"a": 10, "b": 7})


def test_cp_sat_takes_named_values() -> None:
    names, value = doubled(3)
    variables = tuple(Variable(name, (1, 2, 3)) for name in "ab")
    problem = Problem(variables, (Constraint("c", Const(4), "<=", A + B),), names.close(value))
    enumerated, proved = (solve(problem, k=3, engine=engine) for engine in ("enumerate", "cpsat"))
    assert enumerated.best == proved.best
    assert enumerated.objectives == proved.objectives == (32, 32, 32)


def test_constants_and_symbols_need_no_name() -> None:
    names = Names("k")
    assert names.name("x", Const(3)) == Const(3)
    assert names.name("x", A) is A
    assert names.close(A) is A
    assert isinstance(Names("k"), Names)
    assert str(Let("_k.x", A + 1, Sym("_k.x") * 2)) == "let(_k.x = a + 1: 2 * _k.x)"


@pytest.mark.parametrize("k", [1, 5])
def test_an_infeasible_part_makes_the_problem_infeasible(k: int) -> None:
    impossible = Constraint("never", C + D, "<=", Const(-1))
    variables = tuple(Variable(name, (0, 1)) for name in "abcds")
    problem = Problem(variables, (impossible,), imax(A * B, S) + imax(C * D, S))
    assert solve(problem, k=k).status == "infeasible"
