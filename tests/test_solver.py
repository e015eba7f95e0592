"""The solver: both engines against brute force, propagation, conflicts, and the errors it raises."""

from __future__ import annotations

import itertools
from builtins import enumerate as builtin_enumerate
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc.autotune import (
    AllOf,
    AnyOf,
    Assignment,
    Condition,
    Constraint,
    Interval,
    Problem,
    Variable,
    engines,
    enumerate,
    explain,
    find_conflict,
    first_violated,
    propagate,
    solve,
)
from flashc.errors import ConstraintError, InfeasibleError, IntegerOverflowError, SolverLimitError
from flashc.ir.intexpr import Const, IntExpr, Item, Sym, ceil_div, imax, imin, isum

X, Y, Z, V = (Sym(name) for name in "xyzv")
TABLE = np.array([5, 2, 7, 1, 3, 8, 4, 6, 0, 9])


def points(problem: Problem) -> Iterator[Assignment]:
    lists = [
        range(v.domain.lo, v.domain.hi + 1) if isinstance(v.domain, Interval) else v.domain
        for v in problem.variables
    ]
    for values in itertools.product(*(sorted(set(values)) for values in lists)):
        yield dict(zip(problem.names, values, strict=True))


def brute_force(problem: Problem) -> list[Assignment]:
    """Every solution, in the order the solver promises."""

    def rank(point: Assignment) -> tuple[int, ...]:
        cost = 0 if problem.objective is None else problem.objective.evaluate({**problem.tables, **point})
        return (cost, *(direction * point[name] for name, direction in problem.ranking()))

    good = [p for p in points(problem) if all(c.holds({**problem.tables, **p}) for c in problem.constraints)]
    return sorted(good, key=rank)


DOMAINS = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    st.tuples(st.integers(1, 5), st.integers(0, 4)).map(lambda pair: Interval(pair[0], sum(pair))),
)
DIVISORS = st.sampled_from([X, Y, Z, Const(2), Const(3), X * Y])
TERMS = st.recursive(
    st.sampled_from([X, Y, Z]) | st.integers(-5, 20).map(Const),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] - pair[1]),
        st.tuples(inner, inner).map(lambda pair: imin(*pair)),
        st.tuples(inner, inner).map(lambda pair: imax(*pair)),
        st.tuples(inner, DIVISORS).map(lambda pair: pair[0] // pair[1]),
        st.tuples(inner, DIVISORS).map(lambda pair: pair[0] % pair[1]),
        st.tuples(inner, DIVISORS).map(lambda pair: ceil_div(*pair)),
        st.tuples(inner, st.sampled_from([X, Y])).map(lambda pair: isum("v", pair[1], imin(V * V, pair[0]))),
        st.sampled_from([X, Y, Z]).map(lambda symbol: Item("table", (symbol,))),
    ),
    max_leaves=4,
)
RELATIONS = st.one_of(
    st.builds(Constraint, st.just("c"), TERMS, st.sampled_from(["<=", "==", "!="]), TERMS),
    st.builds(Constraint, st.just("c"), TERMS, st.just("%==0"), DIVISORS),
)
CONDITIONS = st.recursive(
    RELATIONS,
    lambda inner: st.builds(
        lambda kind, parts: kind("g", tuple(parts)),
        st.sampled_from([AnyOf, AllOf]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=3,
)


def named(condition: Condition, name: str) -> Condition:
    if isinstance(condition, Constraint):
        return Constraint(name, condition.left, condition.op, condition.right, knob=f"mend {name}")
    return type(condition)(name, condition.conditions)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    conditions = draw(st.lists(CONDITIONS, max_size=4))
    return Problem(
        variables=tuple(Variable(name, draw(DOMAINS)) for name in "xyz"),
        constraints=tuple(named(part, f"c{number}") for number, part in builtin_enumerate(conditions)),
        objective=draw(st.none() | TERMS),
        tie_break=draw(st.sampled_from([(), (("z", "largest"),), (("y", "largest"), ("x", "smallest"))])),
        tables={"table": TABLE},
    )


@settings(deadline=None, max_examples=150)
@given(problems(), st.integers(1, 4))
def test_every_engine_returns_the_k_best_of_brute_force(problem: Problem, k: int) -> None:
    expected = tuple(brute_force(problem)[:k])
    for engine in ("auto", "enumerate", "cpsat"):
        answer = solve(problem, k=k, engine=engine)
        assert answer.best == expected
        assert answer.status == ("optimal" if expected else "infeasible")


@settings(deadline=None)
@given(problems())
def test_propagation_never_removes_a_value_of_a_solution(problem: Problem) -> None:
    domains = propagate(problem)
    for point in brute_force(problem):
        for name, value in point.items():
            values = domains[name].values
            assert values is not None
            assert value in values


@settings(deadline=None)
@given(problems())
def test_conflicts_are_minimal_and_show_the_least_violation(problem: Problem) -> None:
    if brute_force(problem):
        assert solve(problem).conflict is None
        return
    conflict = find_conflict(problem)
    assert conflict.minimal
    kept = [member.condition for member in conflict.members]
    assert not brute_force(Problem(problem.variables, tuple(kept), tables=problem.tables))
    for member in conflict.members:
        others = tuple(part for part in kept if part is not member.condition)
        relaxed = brute_force(Problem(problem.variables, others, tables=problem.tables))
        assert relaxed
        violations = [member.condition.violation().evaluate({**problem.tables, **point}) for point in relaxed]
        assert member.at is not None
        assert member.check is not None
        seen = {**problem.tables, **relaxed[0], **member.at}
        assert member.condition.violation().evaluate(seen) == min(violations)
        assert not member.check.holds


@settings(deadline=None)
@given(problems())
def test_explain_agrees_with_the_conditions_at_every_point(problem: Problem) -> None:
    for point in itertools.islice(points(problem), 20):
        checks = explain(problem, point)
        assert [c.holds for c in checks] == [c.holds({**TABLES, **point}) for c in problem.constraints]
        first = first_violated(problem, point)
        assert first == next((found for found in checks if not found.holds), None)


TABLES = {"table": TABLE}
SMEM_LIMIT = 101376


def attention_tiles(q_tiles: tuple[int, ...] = (64, 128), objective: IntExpr | None = None) -> Problem:
    """Tiles of a fused kernel with ring buffers: six variables, as a real search has."""
    q, kv, stages, warps, d = Sym("q"), Sym("kv"), Sym("stages"), Sym("warps"), 128
    smem = 2 * (q * d + stages * 2 * kv * d)
    return Problem(
        variables=(
            Variable("q", q_tiles),
            Variable("kv", (64, 128, 256)),
            Variable("stages", (2, 3, 4)),
            Variable("warps", (4, 8)),
            Variable("split", tuple(range(1, 17))),
            Variable("order", (0, 1)),
        ),
        constraints=(
            Constraint("threads", 32 * warps, "<=", Const(1024), "threads"),
            Constraint("q_atom", q, "%==0", 16 * warps, "", "fewer warps"),
            Constraint("smem", smem, "<=", Const(SMEM_LIMIT), "B", "lower stages or the kv tile"),
            Constraint("registers", q * kv + q * d, "<=", 32 * warps * 200, "", "more warps"),
            Constraint("grid", ceil_div(4096, q) * Sym("split"), "<=", Const(1 << 16)),
        ),
        objective=objective,
    )


def test_conflict_names_both_numbers_and_the_knob() -> None:
    problem = attention_tiles(q_tiles=(128,))
    variables = (problem.variables[0], Variable("kv", (80,)), *problem.variables[2:])
    larger = Problem(variables, problem.constraints)
    conflict = solve(larger).conflict
    assert conflict is not None
    assert conflict.names == ("smem",)
    assert str(conflict) == "smem: needs 114688 B, limit 101376 B; lower stages or the kv tile"
    with pytest.raises(InfeasibleError, match="needs 114688 B"):
        solve(larger).require()


def test_conflict_of_two_constraints_gives_each_at_its_least_violation() -> None:
    problem = Problem(
        (Variable("x", Interval(1, 100)), Variable("y", Interval(1, 100))),
        (
            Constraint("loose", X, "<=", Const(90)),
            Constraint("enough", Const(40), "<=", X * Y, "rows", "a wider tile"),
            Constraint("small", X + Y, "<=", Const(12), "B", "more memory"),
        ),
    )
    conflict = find_conflict(problem)
    assert conflict.names == ("enough", "small")
    assert str(conflict).splitlines() == [
        "enough: needs 40 rows, limit 36 rows; a wider tile",
        "small: needs 13 B, limit 12 B; more memory",
    ]
    assert conflict.members[0].at == {"x": 6, "y": 6}


def test_conditions_without_a_knob_leave_the_conflict_first() -> None:
    parts = (Constraint("fixed", X, "<=", Const(3)), Constraint("tunable", X, "<=", Const(2), knob="turn it"))
    problem = Problem((Variable("x", (4, 5)),), parts)
    assert find_conflict(problem).names == ("tunable",)


def test_constant_contradictions_are_conflicts_too() -> None:
    problem = Problem((Variable("x", (1,)),), (Constraint("never", Const(5), "<=", Const(3), "B"),))
    answer = solve(problem)
    assert (answer.status, answer.engine) == ("infeasible", "propagation")
    assert str(answer.conflict) == "never: needs 5 B, limit 3 B"


def test_objective_with_sums_over_many_candidates() -> None:
    n, q, kv, i = Const(16384), Sym("q"), Sym("kv"), Sym("i")
    visited = ceil_div(imin((i + 1) * q, n), kv)
    busy = isum("i", ceil_div(n, q), visited * (q * kv + 3 * q + 5 * kv) + 900 * (q % kv))
    problem = attention_tiles((16, 32, 48, 64, 80, 96, 112, 128), busy * 7 + Sym("order") * Sym("split"))
    answer = solve(problem, k=3)
    assert (answer.engine, answer.status) == ("enumerate", "optimal")
    assert answer.best == solve(problem, k=3, engine="cpsat").best
    assert answer.best[0] == brute_force(problem)[0]
    assert answer.objectives[0] == busy.evaluate(answer.best[0]) * 7
    assert list(answer.objectives) == sorted(answer.objectives)
    assert "all candidates enumerated" in answer.proof


def test_search_in_order_looks_at_few_rows_of_many() -> None:
    """Of a million solutions the first ones in the order that was asked for; enumeration finds them all."""
    wide = tuple(Variable(name, Interval(1, 100)) for name in "xyz")
    problem = Problem(wide, (Constraint("c", X, "<=", Y + 40),), tie_break=(("z", "largest"), ("x", "largest")))
    found, counted = solve(problem, k=2), solve(problem, k=2, engine="enumerate")
    assert found.best == counted.best == ({"x": 100, "y": 60, "z": 100}, {"x": 100, "y": 61, "z": 100})
    assert (found.engine, found.status, found.stats.feasible) == ("search", "optimal", None)
    assert counted.stats.feasible == 100 * sum(min(100, y + 40) for y in range(1, 101))
    assert found.stats.candidates is not None
    assert found.stats.candidates < 30_000
    assert "everything that comes before was ruled out" in found.proof


def test_a_search_that_takes_too_many_rows_is_left_to_the_other_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = attention_tiles()
    searched = solve(problem, k=3)
    monkeypatch.setattr(engines, "TRIAL_ROWS", 1)
    assert (searched.engine, solve(problem, k=3).engine) == ("search", "enumerate")
    assert solve(problem, k=3).best == searched.best


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = attention_tiles(objective=Sym("q") * Sym("split") % 7)
    whole = solve(problem, k=5, engine="enumerate")
    monkeypatch.setattr(enumerate, "CHUNK", 3)
    pieces = solve(problem, k=5, engine="enumerate")
    assert pieces.best == whole.best
    assert pieces.stats.feasible == whole.stats.feasible == len(brute_force(problem))


def test_fewer_solutions_than_asked_for() -> None:
    problem = Problem((Variable("x", Interval(1, 9)),), (Constraint("c", X, "%==0", Const(4)),))
    for engine in ("enumerate", "cpsat"):
        assert solve(problem, k=10, engine=engine).best == ({"x": 4}, {"x": 8})


def test_auto_leaves_wide_intervals_and_loose_products_to_cp_sat(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Problem((Variable("x", Interval(1, 2**30)),), (Constraint("c", Const(10**6), "<=", X),), X)
    assert (solve(wide).engine, solve(wide).best[0]) == ("cpsat", {"x": 10**6})
    with pytest.raises(ConstraintError, match=r"cannot list x in 1000000\.\.1073741824"):
        solve(wide, engine="enumerate")
    monkeypatch.setattr(engines, "SMALL_SPACE", 10)
    monkeypatch.setattr(engines, "TRIAL_ROWS", 50)
    loose = Problem(tuple(Variable(name, Interval(1, 30)) for name in "xyz"), (), -X * Y * Z)
    answer = solve(loose)
    assert (answer.engine, answer.best[0]) == ("cpsat", {"x": 30, "y": 30, "z": 30})


@pytest.mark.parametrize("engine", ["enumerate", "cpsat"])
def test_time_limit(engine: engines.Engine) -> None:
    problem = Problem(tuple(Variable(f"x{i}", Interval(0, 30)) for i in range(12)), (), None)
    with pytest.raises(SolverLimitError, match="time limit"):
        solve(problem, engine=engine, time_limit=-1.0)


def test_an_answer_without_proof_is_marked_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumerate, "CHUNK", 8)
    clock = itertools.count()
    monkeypatch.setattr(enumerate.time, "monotonic", lambda: float(next(clock)))
    problem = Problem(tuple(Variable(name, Interval(1, 30)) for name in "xyz"), (), X * Y * Z)
    answer = solve(problem, engine="enumerate", time_limit=60.0)
    assert answer.status == "feasible"
    assert "no proof" in answer.proof
    assert answer.best


def test_objectives_beyond_the_engines_are_refused() -> None:
    huge = Problem((Variable("x", Interval(1, 2**20)), Variable("y", Interval(1, 2**20))), (), X * X * Y * Y)
    for engine in ("auto", "cpsat"):
        with pytest.raises(IntegerOverflowError, match=r"2\^60; use a coarser unit"):
            solve(huge, engine=engine)
    small = Problem((Variable("x", (2**39, 2**40)),), (), X * X)
    with pytest.raises(IntegerOverflowError, match="int64"):
        solve(small)


def test_a_wrong_engine_does_not_go_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = engines.Outcome(({"x": 3},), True, "enumerate")
    monkeypatch.setattr(engines, "run", lambda *args: wrong)
    problem = Problem((Variable("x", (3, 4)),), (Constraint("c", X, "==", Const(4)),))
    with pytest.raises(AssertionError, match="c: is 3, must equal 4"):
        solve(problem)


def test_explain_shows_every_number() -> None:
    problem = attention_tiles()
    point = {"q": 128, "kv": 256, "stages": 2, "warps": 8, "split": 1, "order": 0}
    found = {check.name: check for check in explain(problem, point)}
    assert (found["smem"].needs, found["smem"].limit) == (294912, SMEM_LIMIT)
    assert found["smem"].slack == SMEM_LIMIT - 294912
    assert found["q_atom"].holds
    assert found["threads"].slack == 1024 - 256
    violated = first_violated(problem, point)
    assert violated is not None
    assert str(violated) == "smem: needs 294912 B, limit 101376 B; lower stages or the kv tile"


def test_a_disjunction_is_explained_by_its_nearest_branch() -> None:
    branches = (Constraint("small", X, "<=", Const(4)), Constraint("round", X, "%==0", Const(8), "B"))
    either = AnyOf("size", branches)
    problem = Problem((Variable("x", Interval(1, 99)),), (either,))
    assert str(explain(problem, {"x": 5})[0]) == "size (small): needs 5, limit 4"
    assert str(explain(problem, {"x": 57})[0]) == "size (round): is 57 B, must be a multiple of 8 B"
    assert explain(problem, {"x": 16})[0].holds


ONE = Variable("x", (1,))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Variable("x", ()), "x: its list of values is empty"),
        (lambda: Variable("x", Interval(3, 2)), r"3\.\.2 is empty"),
        (lambda: Variable("x", (2**41,)), r"within \+-2\^40"),
        (lambda: Constraint("c", X, "<", Y), "op '<' is not one of"),
        (lambda: AnyOf("c", ()), "at least one condition"),
        (lambda: Problem((ONE, ONE)), "variable 'x' is declared twice"),
        (lambda: Problem((ONE,), (Constraint("c", Y, "<=", X),)), "constraint 'c': 'y' is not declared"),
        (lambda: Problem((ONE,), objective=Item("t", (X,))), "the objective: 't' is not declared"),
        (lambda: Problem((ONE,), tie_break=(("y", "largest"),)), "tie_break"),
        (lambda: solve(Problem((ONE,)), k=0), "k = 0"),
        (lambda: solve(Problem((ONE,)), engine="ilp"), "engine 'ilp' is not one of"),
        (lambda: explain(Problem((ONE,)), {}), "no value for x"),
        (lambda: explain(Problem((ONE,)), {"x": 2}), "x = 2 is outside"),
    ],
)
def test_malformed_problems_are_refused(build: object, words: str) -> None:
    with pytest.raises(ConstraintError, match=words):
        build()  # type: ignore[operator]


def test_a_conflict_out_of_time_says_so_and_still_names_conditions() -> None:
    problem = Problem(
        (Variable("x", (4, 5)),), (Constraint("a", X, "<=", Const(3)), Constraint("b", X, "<=", Const(2)))
    )
    conflict = find_conflict(problem, time_limit=-1.0)
    assert not conflict.minimal or conflict.names == ("b",)
    assert conflict.members[-1].check is None
    assert str(conflict).endswith("b: x <= 2")


def test_a_problem_without_variables_has_one_empty_solution() -> None:
    assert solve(Problem(())).best == ({},)
