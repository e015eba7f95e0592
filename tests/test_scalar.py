"""Elementwise expressions: simplification, kinds, evaluation, printing."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashc.errors import ExpressionError
from flashc.ir.scalar import (
    FUNCTIONS,
    Call,
    Coord,
    Fetch,
    InDomain,
    Kind,
    Lit,
    Ref,
    Scalar,
    as_scalar,
    call,
    coords,
    evaluate,
    exp2,
    fetches,
    kind_of,
    maximum,
    minimum,
    refs,
    substitute,
    to_float,
    to_int,
    walk,
    where,
)
from flashc.ir.scalar_parse import parse_ir_scalar

R, J, X, Y = Coord("i"), Coord("j"), Ref("x"), Ref("y")
KINDS = {"x": "float", "y": "float", "n": "int", "p": "bool", "t": "float"}
ARRAYS: dict[Scalar, Any] = {
    R: np.arange(5)[:, None],
    J: np.arange(7)[None, :],
    X: np.linspace(-3, 3, 35).reshape(5, 7),
    Y: np.array([[0.0, -math.inf, math.inf, math.nan, 1.5, -2.5, 1e-9]]),
    Ref("n"): np.array([[3, -4, 5, 0, 1, 2, -1]]),
    Ref("p"): np.array([[True], [False], [True], [True], [False]]),
    InDomain("j"): np.arange(7)[None, :] < 4,
}
TABLE = np.arange(6.0) ** 2


def leaf(node: Scalar) -> Any:
    if isinstance(node, Fetch):
        return TABLE[evaluate(node.index[0], leaf)]
    return ARRAYS[node]


def value(expr: Scalar) -> Any:
    return evaluate(expr, leaf)


# --- simplification -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (Lit(2) + 3, Lit(5)),
        (Lit(2) * 0.5, Lit(1.0)),
        (Lit(7) // -2, Lit(-4)),
        (Lit(-7) % 4, Lit(1)),
        (Lit(1) / 0.0, Lit(math.inf)),
        (call("log", 0.0), Lit(-math.inf)),
        (-Lit(3), Lit(-3)),
        (Lit(1) < 2, Lit(True)),
        (Lit(True) & False, Lit(False)),
        (where(True, 1.5, 2.5), Lit(1.5)),
        (call("max", 2, 3), Lit(3)),
        (to_int(-2.7), Lit(-2)),
        (to_float(3), Lit(3.0)),
        (exp2(3.0), Lit(8.0)),
        (X + 0, X),
        (X - 0, X),
        (0 + X, X),
        (X * 1, X),
        (1 * X, X),
        (-call("neg", X), X),
        (~(~(R < J)), R < J),
        ((X * 2) * 3, X * 6),
        ((X * 2.0) * 0.25, X * 0.5),
        (3 * (X * 2), X * 6),
        (2 * X, X * 2),
        (2 + X, X + 2),
        ((R < J) & True, R < J),
        (call("and", True, R < J), R < J),
        ((R < J) & False, Lit(False)),
        ((R < J) | True, Lit(True)),
        ((R < J) | False, R < J),
        (where(True, X, Y), X),
        (where(False, X, Y), Y),
        (where(R < J, X, X), X),
    ],
)
def test_smart_constructor_simplifies(expr: Scalar, expected: Scalar) -> None:
    assert expr == expected


@pytest.mark.parametrize(
    "expr",
    [
        X * 1.0,
        X + 0.0,
        X * 0,
        X * 0.0,
        (X * 1e200) * 1e200,
        (X * 1e-200) * 1e-200,
        X - X,
        X / X,
        call("sub", math.inf, math.inf),
        call("mul", math.inf, 0),
        call("log", -1.0),
    ],
)
def test_not_simplified_where_kind_range_or_nan_would_change(expr: Scalar) -> None:
    assert isinstance(expr, Call)


def test_literals_of_different_types_are_different_expressions() -> None:
    assert len({Lit(1), Lit(1.0), Lit(True)}) == 3
    assert Lit(0.0) != Lit(-0.0)
    assert {Lit(2.5): "found"}[Lit(2.5)] == "found"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lit(math.nan),
        lambda: Lit(2**63),
        lambda: Lit(2**62) + 2**62,
        lambda: Lit(1) // 0,
        lambda: Lit(1) % 0,
        lambda: call("sin", X),
        lambda: call("add", X),
        lambda: Lit(True) + 1,
        lambda: Lit(1.5) // 2,
        lambda: where(1, 2, 3),
        lambda: Lit(1) & True,
    ],
)
def test_refused_at_construction(make: Any) -> None:
    with pytest.raises(ExpressionError):
        make()


def test_misuse_as_a_python_value() -> None:
    with pytest.raises(TypeError, match="no truth value"):
        bool(R < J)
    with pytest.raises(TypeError, match="str"):
        as_scalar("x")  # type: ignore[arg-type]


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        (R, "int"),
        (InDomain("j"), "bool"),
        (X, "float"),
        (Lit(True), "bool"),
        (Lit(3), "int"),
        (Lit(3.0), "float"),
        (R + 1, "int"),
        (R + 1.0, "float"),
        (R / 2, "float"),
        (R // 2, "int"),
        (-(R % 3), "int"),
        (X + R, "float"),
        (R < J, "bool"),
        (X.eq(Y), "bool"),
        ((R < J).ne(R > 2), "bool"),
        (~(R < J), "bool"),
        (where(R < J, R, X), "float"),
        (where(R < J, R < 2, InDomain("j")), "bool"),
        (minimum(R, 3), "int"),
        (exp2(R), "float"),
        (to_int(X), "int"),
        (to_float(R < J), "float"),
        (call("isinf", X), "bool"),
        (Fetch("t", (R + 1,)), "float"),
        (abs(R - J), "int"),
    ],
)
def test_kind(expr: Scalar, kind: Kind) -> None:
    assert kind_of(expr, KINDS) == kind
    expected = {"bool": "b", "int": "i", "float": "f"}[kind]
    assert value(expr).dtype.kind == expected


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ((R < J) + 1, r"'\+' takes numbers, got bool and int"),
        (X // 2, "'//' takes ints, got float and int"),
        (X & (R < J), "'and' takes bools, got float and bool"),
        (~X, "'not' takes a bool, got float"),
        (where(X, X, Y), "where takes a bool"),
        (where(R < J, R < J, X), "where takes a bool"),
        ((R < J) < 2, "'<' takes numbers"),
        (X.eq(R < J), "two numbers or two bools"),
        (exp2(R < J), "exp2 takes"),
        (Fetch("t", (X,)), "index must be int"),
        (Ref("z"), "'z' has no known kind"),
        (Fetch("u", (R,)), "'u' has no"),
    ],
)
def test_kind_errors_name_the_function_and_what_it_got(expr: Scalar, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        kind_of(expr, KINDS)


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluate_broadcasts_and_follows_numpy() -> None:
    i, j, x, y = ARRAYS[R], ARRAYS[J], ARRAYS[X], ARRAYS[Y]
    with np.errstate(all="ignore"):
        expected = np.where((j <= i) & (j < 4), x * 0.5 - np.maximum(y, 1.0) / (i - 2), -np.inf)
    found = value(where((J <= R) & InDomain("j"), X * 0.5 - maximum(Y, 1.0) / (R - 2), -math.inf))
    np.testing.assert_array_equal(found, expected)


def test_int_division_rounds_down_and_division_by_zero_does_not_warn() -> None:
    np.testing.assert_array_equal(value((J - 3) // 2), [[-2, -1, -1, 0, 0, 1, 1]])
    np.testing.assert_array_equal(value((J - 3) % 3), [[0, 1, 2, 0, 1, 2, 0]])
    assert value((J + 4) // (J - 3)).shape == (1, 7)


def test_fetch_evaluates_its_own_index() -> None:
    np.testing.assert_array_equal(value(Fetch("t", (minimum(J, 5),)) + 1), [[1, 2, 5, 10, 17, 26, 26]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_arithmetic_is_in_the_requested_type(dtype: Any) -> None:
    half = {X: np.array([1.5], np.float16), R: np.array([2], np.uint8)}
    found = evaluate((X + R) * 0.1, lambda node: half[node], dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray([3.5], dtype) * dtype(0.1))
    assert evaluate(R - 3, lambda node: half[node], dtype).tolist() == [-1]


def test_a_constant_needs_no_leaf() -> None:
    assert evaluate(Lit(2.5), leaf) == 2.5


# --- walking --------------------------------------------------------------------------------------


def test_walk_yields_each_node_once_children_first() -> None:
    shared = X * 2
    expr = shared + exp2(shared) + Fetch("t", (R + 1,))
    nodes = list(walk(expr))
    assert len(nodes) == len(set(nodes)) and nodes[-1] == expr
    assert nodes.index(shared) < nodes.index(exp2(shared))
    assert coords(expr) == frozenset("i") and refs(expr) == frozenset("x")
    assert fetches(expr) == (Fetch("t", (R + 1,)),)


def test_substitute_reaches_indices_and_simplifies() -> None:
    expr = Fetch("t", (R + J,)) * Ref("n") + X
    assert substitute(expr, {J: Lit(0), Ref("n"): Lit(1), X: J}) == Fetch("t", (R,)) + J


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_states_its_cost(name: str) -> None:
    function = FUNCTIONS[name]
    assert function.name == name
    assert function.transcendental == (name in {"exp", "exp2", "log", "log2", "tanh"})
    assert function.flops == (0 if function.transcendental or name.startswith("to_") else 1)


# --- random expressions ---------------------------------------------------------------------------

_INTS = st.sampled_from([R, J, Ref("n"), Lit(0), Lit(1), Lit(-3), Lit(5)])
_CONSTANTS = [Lit(0.0), Lit(1.0), Lit(-0.5), Lit(2.0), Lit(math.inf)]
_FLOATS = st.sampled_from([X, Y, *_CONSTANTS, Fetch("t", (Lit(2),))])
_BOOLS = st.sampled_from([Ref("p"), InDomain("j"), Lit(True), Lit(False)])
_SIGNATURES: dict[Kind, list[tuple[str, tuple[Kind, ...]]]] = {
    "int": [(f, ("int", "int")) for f in ("add", "sub", "mul", "min", "max", "floordiv", "mod")]
    + [("neg", ("int",)), ("abs", ("int",)), ("where", ("bool", "int", "int"))],
    "float": [(f, ("float", "float")) for f in ("add", "sub", "mul", "min", "max", "div")]
    + [(f, ("float",)) for f in ("neg", "abs", "exp", "exp2", "log", "log2", "tanh")]
    + [
        ("add", ("float", "int")),
        ("mul", ("int", "float")),
        ("where", ("bool", "float", "int")),
        ("to_float", ("int",)),
    ],
    "bool": [(f, ("int", "float")) for f in ("lt", "le", "gt", "ge", "eq", "ne")]
    + [
        ("and", ("bool", "bool")),
        ("or", ("bool", "bool")),
        ("not", ("bool",)),
        ("isinf", ("float",)),
        ("isfinite", ("float",)),
    ],
}


@functools.cache
def _trees(kind: Kind, depth: int) -> st.SearchStrategy[Any]:
    """Nested (function, argument, ...) tuples of one kind, whose leaves are Scalars."""
    leaves: st.SearchStrategy[Any] = {"int": _INTS, "float": _FLOATS, "bool": _BOOLS}[kind]
    if depth == 0:
        return leaves
    calls = (
        st.tuples(st.just(fn), *(_trees(k, depth - 1) for k in kinds)) for fn, kinds in _SIGNATURES[kind]
    )
    return st.one_of(leaves, *calls)


def _built(tree: Any) -> Scalar:
    return tree if isinstance(tree, Scalar) else call(tree[0], *map(_built, tree[1:]))


def _reference(tree: Any) -> Any:
    """The value of a tree with literals as arrays, so that all arithmetic is numpy's."""
    if isinstance(tree, Lit):
        return np.asarray(tree.value)
    return leaf(tree) if isinstance(tree, Scalar) else FUNCTIONS[tree[0]].numpy(*map(_reference, tree[1:]))


@given(st.one_of(_trees("int", 3), _trees("float", 3), _trees("bool", 3)))
def test_simplified_means_the_same_and_prints_and_parses_back(tree: Any) -> None:
    try:
        expr = _built(tree)
    except ExpressionError as error:
        assert "divides by zero" in str(error)
        return
    with np.errstate(all="ignore"):
        expected = _reference(tree)
    found, expected = np.broadcast_arrays(value(expr), expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert parse_ir_scalar(str(expr)) == expr
