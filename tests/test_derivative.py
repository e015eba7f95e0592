"""Derivatives of expressions against finite differences, and the functions that are shorthand for others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flashc.errors import ExpressionError
from flashc.ir.derivative import PARTIAL, derivative
from flashc.ir.scalar import FUNCTIONS, Coord, Fetch, Lit, Ref, Scalar, call, evaluate, to_int, walk, where
from flashc.ir.scalar_functions import COMPARE, INFIX
from flashc.ir.scalar_parse import parse_scalar
from flashc.ir.scalar_sugar import logsigmoid, sigmoid

X, Y = Ref("x"), Ref("y")
TWO = ["add", "sub", "mul", "div", "min", "max"]
ONE = ["neg", "abs", "exp", "exp2", "log", "log2", "tanh"]
NUMBERS = st.floats(-3, 3).map(lambda v: Lit(round(v, 3)))


def _deeper(inner: st.SearchStrategy[Scalar]) -> st.SearchStrategy[Scalar]:
    condition = st.builds(lambda a, b: a < b, inner, inner)
    return st.one_of(
        st.builds(call, st.sampled_from(TWO), inner, inner),
        st.builds(call, st.sampled_from(ONE), inner),
        st.builds(where, condition, inner, inner),
        st.builds(sigmoid, inner),
        st.builds(logsigmoid, inner),
    )


EXPRESSIONS = st.recursive(st.one_of(st.just(X), st.just(Y), NUMBERS), _deeper, max_leaves=6)


def value(expr: Scalar, x: float, y: float = 0.7) -> float:
    found = {X: np.float64(x), Y: np.float64(y)}
    return float(evaluate(expr, lambda node: found[node]))


def parsed(text: str) -> Scalar:
    return parse_scalar(text, coords=(), refs=("x", "y"), tensors={}, source="test")


@settings(deadline=None, max_examples=400)
@given(EXPRESSIONS, st.floats(-2, 2))
def test_it_is_the_limit_of_differences(expr: Scalar, x: float) -> None:
    slope = value(derivative(expr, "x"), x)
    steps = [1e-4, 2e-4]
    sides = [[value(expr, x + way * h) for h in (0.0, *steps)] for way in (1, -1)]
    flat = [v for side in sides for v in side]
    assume(all(np.isfinite(value(node, x)) for node in walk(expr)))  # no branch hangs on 0 / 0
    assume(np.isfinite([*flat, slope]).all() and max(map(abs, flat)) < 1e3 and abs(slope) < 1e3)
    ahead, behind = ((-3 * a + 4 * b - c) / (2 * steps[0]) for a, b, c in sides)  # second order, one-sided
    third = max(abs(c - 2 * b + a) for a, b, c in sides) / steps[0] ** 2
    assume(abs(ahead + behind) < 1e-3 * (1 + abs(slope)) and third < 1e3)  # smooth here: no corner, no jump
    assert slope == pytest.approx((ahead - behind) / 2, rel=1e-3, abs=1e-4)


def test_every_function_has_a_rule_or_an_error() -> None:
    plain = {"where", "min", "max"}
    for name, function in FUNCTIONS.items():
        if name in {*PARTIAL, *plain}:
            continue
        compares = INFIX.get(name, ("", 0))[1] == COMPARE or name in ("isinf", "isfinite")
        assert compares or name == "to_int" or function.accepts in ("ints", "bools", "a bool")
    with pytest.raises(ExpressionError, match=r"`to_int\(x\)` has no derivative by x; allowed: abs, add,"):
        derivative(X * to_int(X), "x")
    with pytest.raises(ExpressionError, match="an index has no derivative"):
        derivative(Fetch("table", (to_int(X),)), "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "1.0"), ("y", "0.0"), ("3.0 * x", "3.0"), ("x + y", "1.0"), ("y - x", "-1.0"), ("x * y", "y"),
        ("exp(x)", "exp(x)"), ("tanh(x)", "1.0 - tanh(x) * tanh(x)"), ("where(y < 0.0, x, x)", "1.0"),
        ("where(x < 0.0, 2.0 * x, y)", "where(x < 0.0, 2.0, 0.0)"), ("x / y", "1.0 / y"),
    ],
)  # fmt: skip
def test_what_is_plain_stays_plain(text: str, expected: str) -> None:
    assert str(derivative(parsed(text), "x")) == expected


def test_a_value_that_is_not_read_does_not_matter() -> None:
    assert derivative(Coord("i") * Lit(2.0) + Y, "x") == Lit(0.0)


def test_corners_follow_one_side() -> None:
    assert value(derivative(parsed("max(x, 0.0)"), "x"), 0.0) == 0.0
    assert value(derivative(parsed("abs(x)"), "x"), 0.0) == 1.0
    assert value(derivative(logsigmoid(X), "x"), 0.0) == 0.5


@pytest.mark.parametrize("x", [-1000.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoids_are_finite_everywhere(x: float, dtype: type) -> None:
    def at(expr: Scalar) -> float:
        return float(evaluate(expr, lambda _: dtype(x), dtype))

    exact = np.longdouble(x)
    with np.errstate(over="ignore"):
        true = 1 / (1 + np.exp(-exact))
        log_true = -np.log1p(np.exp(-exact)) if x > -11000 else exact
    error = 4 * float(np.finfo(dtype).eps)
    assert at(parsed("sigmoid(x)")) == pytest.approx(float(true), abs=error)
    assert at(parsed("logsigmoid(x)")) == pytest.approx(float(log_true), rel=error, abs=error)
    assert at(derivative(sigmoid(X), "x")) == pytest.approx(float(true * (1 - true)), abs=error)
    assert at(derivative(logsigmoid(X), "x")) == pytest.approx(float(1 - true), abs=error)


def test_shorthand_takes_one_argument() -> None:
    with pytest.raises(ExpressionError, match=r"sigmoid with 2 argument\(s\)"):
        parsed("sigmoid(x, y)")
