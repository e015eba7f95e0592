"""Derivatives of elementwise expressions, by the chain rule over their functions.

Where a function has a corner the derivative is that of one side: ``min(x, y)`` and ``max(x, y)`` of equal arguments
follow the second, ``abs`` at 0 the right. ``where`` follows the branch taken; its condition counts as constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flashc.errors import ExpressionError
from flashc.ir.scalar import Call, Lit, Ref, Scalar, children, exp, exp2, refs, tanh, where

ZERO, ONE = Lit(0.0), Lit(1.0)
Rule = Callable[..., tuple[Scalar, ...]]

PARTIAL: dict[str, Rule] = {
    "add": lambda x, y: (ONE, ONE),
    "sub": lambda x, y: (ONE, Lit(-1.0)),
    "mul": lambda x, y: (y, x),
    "div": lambda x, y: (1.0 / y, -(x / y) / y),
    "neg": lambda x: (Lit(-1.0),),
    "abs": lambda x: (where(x < 0.0, -1.0, 1.0),),
    "exp": lambda x: (exp(x),),
    "exp2": lambda x: (exp2(x) * math.log(2.0),),
    "log": lambda x: (1.0 / x,),
    "log2": lambda x: (1.0 / math.log(2.0) / x,),
    "tanh": lambda x: (1.0 - tanh(x) * tanh(x),),
    "to_float": lambda x: (ONE,),
}
"""Derivatives of a function by each of its arguments."""


def derivative(expr: Scalar, by: str) -> Scalar:
    """The derivative of a float expression by the value ``by``; ``0.0`` where it does not depend on it.

    Raises ExpressionError where ``by`` goes through a function that has no derivative (``//``, ``to_int``, ...).
    """
    found: dict[Scalar, Scalar] = {}

    def of(node: Scalar) -> Scalar:
        if node not in found:
            found[node] = _derivative(node, by, of)
        return found[node]

    return of(expr)


def _derivative(node: Scalar, by: str, of: Callable[[Scalar], Scalar]) -> Scalar:
    if node == Ref(by):
        return ONE
    if by not in refs(node):
        return ZERO
    if not isinstance(node, Call):
        raise ExpressionError(f"`{node}` is indexed by {by}: an index has no derivative")
    if node.fn == "where":
        return _either(node.args[0], *map(of, node.args[1:]))
    if node.fn in ("min", "max"):
        a, b = node.args
        return _either(a < b if node.fn == "min" else a > b, of(a), of(b))
    if node.fn not in PARTIAL:
        raise ExpressionError(f"`{node}` has no derivative by {by}; allowed: {', '.join(_DIFFERENTIABLE)}")
    partial = PARTIAL[node.fn](*children(node))
    total: Scalar = ZERO
    for slope, inner in zip(partial, map(of, node.args), strict=True):
        total = plus(total, times(slope, inner))
    return total


_DIFFERENTIABLE = sorted({*PARTIAL, "min", "max", "where"})


def _either(condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    return where(condition, a, b) if a != b else a


def plus(a: Scalar, b: Scalar) -> Scalar:
    """The sum of two floats; a plain 0 goes."""
    if a == ZERO:
        return b
    return a if b == ZERO else a + b


def times(a: Scalar, b: Scalar) -> Scalar:
    """The product of two floats; a plain 0 or 1 goes, and -1 becomes a sign."""
    if ZERO in (a, b):
        return ZERO
    for one, other in ((a, b), (b, a)):
        if one == ONE:
            return other
        if one == Lit(-1.0):
            return -other
    return a * b
