"""Integer expressions: exact values, arrays and sympy agree; text reads back; simplifying keeps the value."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc.errors import IntegerOverflowError, IRError
from flashc.ir import intarith
from flashc.ir.intexpr import (
    Add,
    CeilDiv,
    Const,
    FloorDiv,
    IntExpr,
    Item,
    Max,
    Min,
    Mod,
    Mul,
    Sum,
    Sym,
    as_expr,
    ceil_div,
    imax,
    imin,
    isum,
)
from flashc.ir.intparse import parse_int

A, B, N, T, V = (Sym(name) for name in ("a", "b", "n", "t", "v"))
TABLE = np.array([[3, 1, 4], [1, 5, 9]])
SIZES = st.integers(1, 40)
ENV = st.fixed_dictionaries({"a": SIZES, "b": SIZES, "n": SIZES, "t": SIZES, "v": SIZES})


def _operations(children: st.SearchStrategy[IntExpr]) -> st.SearchStrategy[IntExpr]:
    """Raw nodes, so that rebuilding them is what simplifies; divisors are positive by construction."""
    pair = st.tuples(children, children)
    positive = st.sampled_from([A, B, T, Const(1), Const(2), Const(7)])
    return st.one_of(
        pair.map(Add),
        pair.map(Mul),
        pair.map(Min),
        pair.map(Max),
        st.builds(FloorDiv, children, positive),
        st.builds(CeilDiv, children, positive),
        st.builds(Mod, children, positive),
    )


def _with_sums(children: st.SearchStrategy[IntExpr]) -> st.SearchStrategy[IntExpr]:
    return _operations(children) | st.builds(Sum, st.just("v"), st.sampled_from(COUNTS), children)


COUNTS = [A, Const(0), Const(1), Const(3), CeilDiv(N, T)]
LEAVES = st.sampled_from([A, B, N, T, V]) | st.integers(-9, 9).map(Const)
RAW = st.recursive(LEAVES, _with_sums, max_leaves=8)
PLAIN = st.recursive(LEAVES, _operations, max_leaves=4)


def simplified(expr: IntExpr) -> IntExpr:
    return expr.rebuild(tuple(simplified(child) for child in expr.children()))


@settings(deadline=None)
@given(RAW, ENV)
def test_simplification_keeps_the_value(expr: IntExpr, env: dict[str, int]) -> None:
    assert simplified(expr).evaluate(env) == expr.evaluate(env)


@settings(deadline=None)
@given(RAW)
def test_simplified_text_reads_back_as_the_same_expression(expr: IntExpr) -> None:
    canonical = simplified(expr)
    assert parse_int(str(canonical)) == canonical


@settings(deadline=None)
@given(RAW, ENV)
def test_raw_text_reads_back_with_the_same_value(expr: IntExpr, env: dict[str, int]) -> None:
    assert parse_int(str(expr)).evaluate(env) == expr.evaluate(env)


@settings(deadline=None)
@given(RAW, st.lists(ENV, min_size=1, max_size=5))
def test_arrays_agree_with_exact_values(expr: IntExpr, envs: list[dict[str, int]]) -> None:
    columns = {name: np.array([env[name] for env in envs]) for name in "abntv"}
    values = np.broadcast_to(expr.evaluate_array(columns), (len(envs),))
    assert values.tolist() == [expr.evaluate(env) for env in envs]


@settings(deadline=None)
@given(PLAIN | st.builds(Sum, st.just("v"), st.sampled_from(COUNTS), PLAIN), ENV)
def test_sympy_agrees(expr: IntExpr, env: dict[str, int]) -> None:
    symbolic = expr.to_sympy().subs({Sym(name).to_sympy(): value for name, value in env.items()})
    assert int(symbolic.doit()) == expr.evaluate(env)


def test_sums_stay_sums_in_sympy() -> None:
    symbolic = isum("v", A, V * V * B % 7).to_sympy()
    assert isinstance(symbolic, sympy.Sum)
    assert str(isum("v", A, Item("table", (V,))).to_sympy()) == "Sum(table[v], (v, 0, a - 1))"


@settings(deadline=None)
@given(RAW, RAW, ENV)
def test_substitution_is_evaluation_in_two_steps(expr: IntExpr, new: IntExpr, env: dict[str, int]) -> None:
    if (replaced := new.evaluate(env)) >= 1:
        assert expr.subs({"a": new}).evaluate(env) == expr.evaluate({**env, "a": replaced})


@settings(deadline=None)
@given(SIZES, SIZES)
def test_clipped_tiles_add_up_to_what_they_cover(n: int, t: int) -> None:
    for visited in range(-(-n // t) + 1):
        raw = Sum("v", Const(visited), Min((T, N - V * T)))
        assert raw.evaluate({"n": n, "t": t}) == min(visited * t, n)
    causal = isum("v", ceil_div(imin(A * T, N), T), imin(T, N - V * T))
    assert not isinstance(causal, Sum)
    raw_causal = Sum("v", ceil_div(imin(A * T, N), T), imin(T, N - V * T))
    for a in range(4):
        assert causal.evaluate({"n": n, "t": t, "a": a}) == raw_causal.evaluate({"n": n, "t": t, "a": a})


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (A - A, "0"),
        (2 * (A + B) - A, "2 * b + a"),
        (A // 1, "a"),
        (ceil_div(A * T, T), "a"),
        ((4 * A + 8) // 4, "a + 2"),
        ((6 * A) % 3, "0"),
        (isum("v", N, A * B), "a * b * n"),
        (isum("v", ceil_div(N, T), imin(T, N - V * T)), "n"),
        (isum("v", ceil_div(N, T), A * imin(T, N - V * T) + B), "a * n + b * ceil(n / t)"),
        (isum("v", N, V), "n * (n - 1) // 2"),
        (isum("v", 5, V * V), "30"),
        (imin(A, 3, imin(A, 2)), "min(a, 2)"),
        (imax(A, imax(B, A)), "max(a, b)"),
        (-(A - 3), "-a + 3"),
        (A + FloorDiv(Const(-1), B), "(-1) // b + a"),
        (T - FloorDiv(-A, B), "t - ((-a) // b)"),
        (2 * ((A + B) * (A // 7)), "2 * ((a + b) * (a // 7))"),
        (-((A + B) * (A // 7)), "-((a + b) * (a // 7))"),
        (Item("kv_lengths", (V + 1,)), "kv_lengths[v + 1]"),
    ],
)
def test_canonical_text(expr: IntExpr, text: str) -> None:
    assert str(expr) == text


def test_order_of_operands_does_not_matter() -> None:
    assert A * B + 3 == 3 + B * A
    assert hash(imin(A, B)) == hash(imin(B, A))
    assert A + B != A * B


def test_free_symbols_and_tables_leave_out_bound_variables() -> None:
    expr = isum("v", N, Item("lengths", (V,)) * V + A % (V + 1))
    assert expr.symbols() == {"n", "a"}
    assert expr.tables() == {"lengths"}


def test_substitution_renames_a_variable_that_would_capture() -> None:
    expr = Sum("v", N, V * A % 7)
    replaced = expr.subs({"a": V})
    assert replaced.symbols() == {"n", "v"}
    assert replaced.evaluate({"n": 5, "v": 3}) == expr.evaluate({"n": 5, "a": 3})


def test_table_elements_and_sums_over_them() -> None:
    expr = isum("v", 3, Item("table", (A, V)))
    assert expr.evaluate({"a": 1, "table": TABLE}) == 15
    assert expr.evaluate_array({"a": np.array([1, 0, 1]), "table": TABLE}).tolist() == [15, 8, 15]


def test_arrays_broadcast_over_candidates() -> None:
    expr = isum("v", ceil_div(N, A), imin(A, N - V * A) * (V % B))
    a, b = np.array([[2], [3], [5]]), np.array([[1, 2, 4, 7]])
    values = expr.evaluate_array({"n": 29, "a": a, "b": b})
    assert values.shape == (3, 4)
    assert values[2, 3] == expr.evaluate({"n": 29, "a": 5, "b": 7})


def test_long_sums_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intarith, "CHUNK", 7)
    expr = Sum("v", A, V * V % 11)
    counts = np.array([0, 1, 20, 13, 20])
    assert expr.evaluate_array({"a": counts}).tolist() == [sum(v * v % 11 for v in range(c)) for c in counts]


def test_sums_are_evaluated_once_per_distinct_row(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = []
    whole = intarith._sum_rows
    monkeypatch.setattr(intarith, "_sum_rows", lambda *args: summed.append(args[-1]) or whole(*args))
    columns = {"a": np.array([5, 9] * 500), "b": np.array([3] * 1000), "n": np.arange(1000)}
    Sum("v", A, V % B).evaluate_array(columns)
    assert summed == [2]


def test_exact_values_have_no_limit_and_arrays_refuse_to_wrap() -> None:
    huge = A * A * A
    assert huge.evaluate({"a": 2**40}) == 2**120
    with pytest.raises(IntegerOverflowError, match="int64"):
        huge.evaluate_array({"a": np.array([1, 2**40])})
    with pytest.raises(IntegerOverflowError):
        (A + A * 1 + B).evaluate_array({"a": np.array([2**62]), "b": np.array([1])})
    with pytest.raises(IntegerOverflowError):
        Sum("v", A, V * B).evaluate_array({"a": np.array([5000]), "b": np.array([2**50])})
    assert (A * B).evaluate_array({"a": np.array([2**31]), "b": np.array([-(2**31)])}).tolist() == [-(2**62)]


def test_long_sum_beyond_int64_is_still_exact() -> None:
    assert Sum("v", A, V * B).evaluate({"a": 1000, "b": 2**60}) == 499500 * 2**60


@pytest.mark.parametrize(
    ("expr", "env", "words"),
    [
        (A + B, {"a": 1}, "'b' has no value"),
        (A // B, {"a": 1, "b": 0}, "division by zero"),
        (A % B, {"a": 1, "b": 0}, "division by zero"),
        (Sum("v", A, V), {"a": -1}, "negative count"),
        (Item("table", (A,)), {"a": 1, "table": TABLE}, "2 axes but 1"),
        (Item("table", (A, B)), {"a": 2, "b": 0, "table": TABLE}, r"leaves 0\.\.1"),
        (Item("table", (A, B)), {"a": -1, "b": 0, "table": TABLE}, r"leaves 0\.\.1"),
    ],
)
def test_bad_evaluations_say_why(expr: IntExpr, env: dict[str, object], words: str) -> None:
    with pytest.raises(IRError, match=words):
        expr.evaluate(env)
    with pytest.raises(IRError, match=words):
        expr.evaluate_array(env)


def test_floats_are_not_integers() -> None:
    with pytest.raises(TypeError, match="float"):
        as_expr(1.5)  # type: ignore[arg-type]
    with pytest.raises(IRError, match="float64"):
        A.evaluate_array({"a": np.array([1.5])})
    with pytest.raises(IRError, match="one integer"):
        A.evaluate({"a": np.array([1, 2])})


@pytest.mark.parametrize("name", ["", "2a", "a b", "min", "sum", "a-b", "é"])
def test_names_that_cannot_be_printed_are_refused(name: str) -> None:
    with pytest.raises(IRError, match="not a symbol name"):
        Sym(name)


def test_division_by_the_constant_zero_is_refused_when_built() -> None:
    for build in (lambda: A // 0, lambda: A % 0, lambda: ceil_div(A, 0)):
        with pytest.raises(IRError, match="division by zero"):
            build()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 - 2 - 1", 4),
        ("-7 // 2", -4),
        ("-" * 5001 + "a", -5),
        ("2 * 7 // 4 % 2", 1),
        ("-a ^ 2 + 1  # comment", -24),
        ("ceil(2 * 7 / 4)", 4),
        ("sum(i < a: sum(j < i: 1))", 10),
        ("min(kv.0, max(a, 2), 9)", 5),
        ("t[1, 2] + t[0, a - 5]", 12),
    ],
)
def test_parsed_values(text: str, value: int) -> None:
    assert parse_int(text).evaluate({"a": 5, "kv.0": 8, "t": TABLE}) == value


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a +", "column 4", "end of text"),
        ("a $ b", "column 3", r"'\$'"),
        ("a b", "column 3", "'b'"),
        ("ceil(a + b / c)", "column 8", "ceil is written"),
        ("a /b", "column 3", "'/'"),
        ("sum(v: a)", "column 6", "a sum is written"),
        ("2 ^ a", "column 5", "a power is an integer"),
        ("1 +\n  (2 * ]", "line 2, column 8", "']'"),
        ("a // 0", "column 6", "division by zero"),
        ("ceil(a / 0)", "column 10", "division by zero"),
        ("min()", "column 5", "'\\)'"),
        ("é", "column 1", "é"),
        ("(" * 9999, "column 65", "brackets nest deeper than 64"),
    ],
)
def test_parse_errors_name_the_column(text: str, where: str, words: str) -> None:
    with pytest.raises(IRError, match=words) as caught:
        parse_int(text)
    assert where in str(caught.value)
