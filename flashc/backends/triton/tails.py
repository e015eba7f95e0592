"""What a padded tile holds beyond the last valid coordinate, and where that matters.

Tiles are powers of two; the coordinates beyond an extent are masked out of loads and stores, but a reduction or a dot
along such an axis sees what was computed there. A constant that is known to be there saves the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flashc.ir.nodes import Load, Map, Stmt, outputs_of
from flashc.ir.scalar import FUNCTIONS, Call, Coord, Fetch, InDomain, Lit, Ref, Scalar, refs, walk

Fills = Mapping[tuple[str, str], float | None]


def fill_of(stmt: Stmt, axis: str, fills: Fills) -> float | None:
    """The constant that the statement's value holds beyond the end of ``axis``; None if there is none for certain."""
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
    """True for ``where(y == -inf, c, y)`` with a finite c: the guard that online softmax subtracts."""
    match expr:
        case Call(fn="where", args=(Call(fn="eq", args=(tested, Lit(value=v))), Lit(value=c), other)):
            return tested == other and v == -math.inf and math.isfinite(c)
    return False


def chosen_by_position(name: str, body: Sequence[Stmt]) -> bool:
    """True if a value computed in ``body`` depends on a ``where`` whose condition reads coordinates or tensors.

    Such a value can be exactly 0 at masked positions of any tile, FULL ones included.
    """
    made = {out.name: s for s in body if (out := outputs_of(s)) is not None}
    pending, seen = [name], set()
    while pending:
        current = pending.pop()
        if current in seen or not isinstance(stmt := made.get(current), Map):
            continue
        seen.add(current)
        if any(_by_position(n) for n in walk(stmt.expr)):
            return True
        pending.extend(refs(stmt.expr))
    return False


def _by_position(node: Scalar) -> bool:
    if not isinstance(node, Call) or node.fn != "where":
        return False
    return any(isinstance(n, Coord | Fetch | InDomain) for n in walk(node.args[0]))
