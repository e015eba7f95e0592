"""What a padded tile holds beyond the last valid coordinate, and where that matters.

Tiles are powers of two; the coordinates beyond an extent are masked out of loads and stores, but a reduction
or a dot along such an axis sees what was computed there. A constant that is known to be there saves the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from flashc.ir.nodes import Load, Map, Seq, Stmt
from flashc.ir.scalar import FUNCTIONS, Call, Coord, Fetch, InDomain, Lit, Ref, Scalar, walk

Fills = Mapping[tuple[str, str], float | None]
EXCLUDED = (Lit(-math.inf), Lit(0.0))  # logit and weight of an element that a predicate leaves out


def fill_of(stmt: Stmt, axis: str, fills: Fills) -> float | None:
    """The constant that the statement's value is certain to hold beyond the end of ``axis``, or None."""
    if isinstance(stmt, Load):
        return 0.0
    if isinstance(stmt, Map):
        value = _constant(stmt.expr, axis, fills)
        return None if value is None else float(value)
    return None


def _constant(expr: Scalar, axis: str, fills: Fills) -> float | bool | None:
    match expr:
        case Lit(value=v):
            return v
        case InDomain(axis=a) if a == axis:
            return False
        case Ref(name=n):
            return fills.get((n, axis))
        case Call(fn="where", args=(test, yes, no)):
            chosen = _constant(test, axis, fills)
            return None if chosen is None else _constant(yes if chosen else no, axis, fills)
        case Call(fn="sub", args=(a, b)) if _constant(a, axis, fills) == -math.inf and _above_minus_inf(b):
            return -math.inf
        case Call(fn=fn, args=args):
            return _applied(fn, [_constant(a, axis, fills) for a in args])
    return None


def _applied(fn: str, args: Sequence[float | bool | None]) -> float | bool | None:
    if fn == "and" and any(a is False for a in args):
        return False
    if any(a is None for a in args):
        return None
    with np.errstate(all="ignore"):
        found = np.asarray(FUNCTIONS[fn].numpy(*args))
    return found.item()  # type: ignore[no-any-return]


def _above_minus_inf(expr: Scalar) -> bool:
    """True for ``where(y == -inf, c, y)`` with a finite c: a guard around a maximum that is subtracted."""
    match expr:
        case Call(fn="where", args=(Call(fn="eq", args=(tested, Lit(value=v))), Lit(value=c), other)):
            return tested == other and v == -math.inf and math.isfinite(c)
    return False


def with_masks(expr: Scalar, ends: Mapping[str, frozenset[Scalar]]) -> Scalar:
    """The expression with, for each axis, the conditions ``ends[axis]`` that together say "before the end"
    put in one.

    They become ``InDomain(axis)``: the mask of the tile's valid coordinates, which is there anyway.
    """
    if not isinstance(expr, Call):
        return expr
    if expr.fn not in ("and", "lt"):
        return Call(expr.fn, tuple(with_masks(a, ends) for a in expr.args))
    terms = _conjuncts(expr)
    for axis, conditions in ends.items():
        if conditions and conditions <= set(terms):
            terms = [InDomain(axis), *(t for t in terms if t not in conditions)]
    return reduce(lambda a, b: Call("and", (a, b)), terms)


def _conjuncts(expr: Scalar) -> list[Scalar]:
    if isinstance(expr, Call) and expr.fn == "and":
        return [t for a in expr.args for t in _conjuncts(a)]
    return [expr]


def masks_elements(body: Sequence[Stmt], ends: Mapping[str, frozenset[Scalar]]) -> bool:
    """True if the body puts -inf or 0 where a condition fails that is more than being before the end of an
    axis.

    Weights that are 0 because they lie beyond the end need no care: loads put zeros there.
    """
    for stmt in body:
        if isinstance(stmt, Seq) and masks_elements(stmt.body, ends):
            return True
        if isinstance(stmt, Map) and any(_masks(n) for n in walk(with_masks(stmt.expr, ends))):
            return True
    return False


def _masks(node: Scalar) -> bool:
    if not isinstance(node, Call) or node.fn != "where" or node.args[2] not in EXCLUDED:
        return False
    return any(isinstance(n, Coord | Fetch | Ref) for n in walk(node.args[0]))
