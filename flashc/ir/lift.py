"""Integer expressions as elementwise ones: how a bound of a domain becomes a predicate of coordinates."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import reduce

from flashc.errors import IRError
from flashc.ir.intexpr import Add, CeilDiv, Const, FloorDiv, IntExpr, Item, Max, Min, Mod, Mul, Sym
from flashc.ir.nodes import Domain
from flashc.ir.scalar import Call, Coord, Fetch, Lit, Ref, Scalar, maximum, minimum

_FOLDS: dict[type[IntExpr], Callable[[Scalar, Scalar], Scalar]] = {
    Mul: lambda a, b: a * b, Min: minimum, Max: maximum,
}


def lift(expr: IntExpr, axes: Collection[str]) -> Scalar:
    """The integer expression as an elementwise one: axis symbols become coordinates, tables become fetches.

    Raises IRError for a sum, which has no elementwise form.
    """
    match expr:
        case Const(value=v):
            return Lit(v)
        case Sym(name=n):
            return Coord(n) if n in axes else Ref(n)
        case Item(table=t, index=ix):
            return Fetch(t, tuple(lift(x, axes) for x in ix))
        case Mul(args=(Const(value=-1), *rest)):
            return -reduce(_FOLDS[Mul], (lift(x, axes) for x in rest))
        case Add(args=args):
            return reduce(_added, (lift(x, axes) for x in args))
        case Mul(args=args) | Min(args=args) | Max(args=args):
            return reduce(_FOLDS[type(expr)], (lift(x, axes) for x in args))
        case FloorDiv(num=a, den=b):
            return lift(a, axes) // lift(b, axes)
        case CeilDiv(num=a, den=b):
            return -((-lift(a, axes)) // lift(b, axes))
        case Mod(num=a, den=b):
            return lift(a, axes) % lift(b, axes)
    raise IRError(f"no elementwise form of {expr}")


def _added(a: Scalar, b: Scalar) -> Scalar:
    return a - b.args[0] if isinstance(b, Call) and b.fn == "neg" else a + b


def inside(domain: Domain, axis: str, axes: Collection[str]) -> Scalar:
    """The domain over ``axis`` as a predicate of coordinates."""
    kept: Scalar = Lit(True)
    for bound in domain.lower:
        kept = kept & (Coord(axis) >= lift(bound, axes))
    for bound in domain.upper:
        kept = kept & (Coord(axis) < lift(bound, axes))
    return kept
